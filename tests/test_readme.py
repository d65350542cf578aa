"""The commands of the README and of docs/, copied as they stand.

Every one is walked: what it names exists, its settings compose and pass the checks that come
before any model is loaded. The lines of REAL, and all Python, are then run in a copy of the
program without any results, at small settings. A command of a new kind fails until WALKS or
MODULES, below, say how it is walked.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import hydra
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from mlflow.cli import cli as mlflow_command

from sweeper.stop_request import REQUEST_FILE as LEAVE
from tests.walking import Step, blocks, commands, is_python, program_of, words, written
from train.cli.arguments import ALLOW_CLASS, ALLOW_PATH
from train.cli.compose import settings
from train.config.flattening import flatten
from train.config.schema import TrainConfig
from train.data.reader import EMBEDDED_FOLDER
from train.kohya.command_line import DATASET, KOHYA, expand
from train.puppets.__main__ import STAGES

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
COMMANDS: dict[str, str] = {}  # each once, with the file that has it first
for name, text in TEXTS.items():
    for command in commands(text):
        COMMANDS.setdefault(command, name)
HERE = "tests/test_readme.py does not know how to walk it"
LIMIT = 900  # seconds
NAMES = ("puppets", "my_person", "mine", "long", "me")  # of the studies that are begun

# what the texts leave open, and what stands for it here
PLACEHOLDERS = {
    "<an MLflow run id of a trial>": "RUN_ID",  # of the sweep that was run before
    "<its address>": "127.0.0.1",
    "--allow-path=/data": "--allow-path=.",
}
FAST = ("data.repeats=1", "training.epochs=1")
SMALL = (*FAST, "probes.count=8", "probes.steps=1", "scores.resamples=10", "scores.baseline=1")
# /my/model.safetensors is a folder with a small model: a file's is always of full size
OTHER = (
    "data.resolution=32",
    "base.precision=fp32",
    "scores.clip_model=puppets",
    "scores.pose_detector=layout",
)
# out/my_lora*.safetensors of `python -m evaluate`: what the sweep before it made
LORAS = {"mlruns/studies/my_person/best.safetensors": ["out/my_lora.safetensors"]}
# every line that starts a module of ours is run, in the order of the texts and in one folder, and
# has its place here, by how it goes on: the settings that make it short, or why it is not run
ONE = ("hydra.sweeper.n_trials=1", *SMALL)
REAL: dict[str, tuple[str, ...] | str] = {
    r"sweeper -m$": ONE,
    r"sweeper -m data\.path=/my/pictures .*study\.name=my_person$": (*ONE, *OTHER),
    r"sweeper network\.rank=16": SMALL,
    r"sweeper -m network\.rank=4,8,16": ONE,
    r"sweeper -m study\.enqueue=.*study\.name=long$": ONE,
    r"sweeper -m study\.name=me hydra\.sweeper\.n_trials=40": ONE,
    r"sweeper -m study\.name=me hydra/launcher=processes": "test_workers.py does it",
    r"sweeper -m study\.name=me hydra/launcher=slurm": "there is no cluster",
    r"sweeper -m study\.name=me hydra/launcher=ray_cluster": "there is no cluster",
    r"sweeper --help": (),
    r"train output=": FAST,
    r"train kohya=config\.toml dataset_config": FAST,
    r"train\.kohya config\.toml": (),
    r"sweeper\.select study=puppets": (),
    r"sweeper\.report study=puppets": (),
    r"sweeper\.reproduce run_id=": (),
    r"sweeper\.reproduce study=puppets": (),
    r"sweeper\.reproduce lora=mlruns/studies/puppets": (),
    r"evaluate checkpoints=out/my_lora": (*SMALL[len(FAST) :], *OTHER),
    r"train\.puppets": "it trains the base that comes with the program: two hours",
    r"bench\.": "it measures for minutes to hours",
    r"(venv|pip|pytest)": "it installs, or runs these tests",
    r"(sweeper|evaluate|train)\b": "one of its kind is run above; the settings are composed",
}


def unknown(command: object) -> None:
    pytest.fail(f"`{command}`: {HERE}: add it to WALKS, MODULES or PLACEHOLDERS")


def filled_in(command: str) -> str:
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    if re.search(r"<[^>]*>", command):
        unknown(command)
    return command


def walk(command: str) -> None:
    """Fails where a command cannot be right."""
    program = program_of(filled_in(command))
    if program not in WALKS:
        unknown(command)
    WALKS[program](words(filled_in(command))[1:])


def python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "pip"]:
        pip(arguments[2:])
    elif arguments[:2] not in (["-m", "venv"], ["-m", "pytest"]):
        if arguments[:1] != ["-m"]:
            unknown(f"python {' '.join(arguments)}")
        module(arguments[1], arguments[2:])


def module(name: str, arguments: list[str]) -> None:
    """A command of our own: composed and checked as it begins, and no further."""
    found = importlib.util.find_spec(name)
    assert found, f"there is no module {name}"
    if found.submodule_search_locations:
        found = importlib.util.find_spec(f"{name}.__main__")
        assert found, f"{name} cannot be run"
    assert found.origin
    source = Path(found.origin).read_text(encoding="utf-8")
    if re.search(r"^ *run\($|^ *run\(\"", source, re.MULTILINE):  # of train.cli.app
        compose_alone(name, arguments)
    elif name in MODULES:
        MODULES[name](arguments)
    elif name.startswith("bench.") and not arguments:
        assert 'if __name__ == "__main__":' in source
    else:
        unknown(f"python -m {name} {' '.join(arguments)}")


def compose_alone(name: str, arguments: list[str]) -> None:
    """Everything that the command does before its work; --cfg, --help and --info to their end."""
    reached: list[str] = []
    ours = ("-m", "--multirun", ALLOW_PATH, ALLOW_CLASS)  # with these it does its work
    flags = [a for a in arguments if a.startswith("-") and a.partition("=")[0] not in ours]
    before, code = signal.getsignal(signal.SIGTERM), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        if not flags:
            patch.setattr(hydra, "main", lambda **options: lambda task: lambda: reached.append(""))
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, before)
    assert code in (None, 0), f"python -m {name} {arguments}: {code}"
    assert flags or reached


def make(arguments: list[str]) -> None:
    """Its lines, each walked in its turn."""
    for line in lines_of(*arguments):
        walk(line)


def lines_of(*targets: str) -> list[str]:
    """What make would do."""
    said = subprocess.run(
        ["make", "-n", "--no-print-directory", *targets], cwd=ROOT, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", said.stdout).splitlines()]


def pip(arguments: list[str]) -> None:
    about = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)):
        for extra in extras.split(","):
            assert f"\n{extra} = [" in about, f"pyproject.toml has no extra {extra}"
    for option, file in itertools.pairwise(arguments):
        assert option != "-c" or (ROOT / file).is_file()


def touch(arguments: list[str]) -> None:
    (file,) = map(Path, arguments)
    asks = file.name == LEAVE and str(file.parent.parent) == "mlruns/studies"
    assert asks or file == Path(".venv/ready"), f"touch {file} does nothing"


def accelerate(arguments: list[str]) -> None:
    """`accelerate launch -m`: its options, and the command that each process runs."""
    assert arguments.pop(0) == "launch"
    found = launch_command_parser().parse_args(arguments)
    assert found.module
    module(found.training_script, found.training_script_args)


def options(command: click.Command) -> Callable[[list[str]], None]:
    """Whether another program's command takes these options; nothing is started."""

    def check(arguments: list[str]) -> None:
        inner = command
        while isinstance(inner, click.Group):
            inner = inner.commands[arguments.pop(0)]
        inner.make_context("", arguments)

    return check


def ray(arguments: list[str]) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    options(scripts.cli)(arguments)


def tool(arguments: list[str]) -> None:
    """ruff and mypy: make test runs them. What make says needs no walk."""


def stages(arguments: list[str]) -> None:
    assert set(arguments) <= set(STAGES)


def translate(files: list[str]) -> None:
    assert expand([f"{key}={file}" for key, file in zip((KOHYA, DATASET), files, strict=False)])


def variable(arguments: list[str]) -> None:
    """Windows' `set`: only of variables that the Makefile sets too."""
    (assignment,) = arguments
    assert assignment in (ROOT / "Makefile").read_text(encoding="utf-8")


WALKS: dict[str, Callable[[list[str]], None]] = {
    "python": python,
    "make": make,
    "pip": pip,
    "touch": touch,
    "accelerate": accelerate,
    "mlflow": options(mlflow_command),
    "ray": ray,
    "set": variable,
    "ruff": tool,
    "mypy": tool,
    "echo": tool,
}
# our modules that are not composed by Hydra, and how their arguments are checked
MODULES: dict[str, Callable[[list[str]], None]] = {
    "train.puppets": stages,
    "train.kohya": translate,
}


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kohya's config.toml and data.toml in the current folder."""
    (tmp_path / "config.toml").write_text(
        f'pretrained_model_name_or_path = "puppets"\ntrain_data_dir = "{EMBEDDED_FOLDER}"\n'
    )
    subset = f'image_dir = "{EMBEDDED_FOLDER}"\nclass_tokens = "sks puppet"\n'
    (tmp_path / "data.toml").write_text(f"[[datasets]]\n[[datasets.subsets]]\n{subset}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "file"), COMMANDS.items())
@pytest.mark.usefixtures("configs", "capsys")
def test_command_is_one_that_works(command: str, file: str) -> None:
    walk(command)


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    """Files that exist, and headings that are in them."""
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_defaults_of_a_persons_own_compose(tmp_path: Path) -> None:
    """The example of conf/local.yaml has settings that there are."""
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXTS["docs/own-pictures.md"], re.DOTALL)
    given = {f"{key}={value}" for key, value in flatten(yaml.safe_load(example)).items()}
    assert settings("train", TrainConfig, [*given, "data.trigger=sks person"])


def test_unknown_commands_are_noticed() -> None:
    wrong = """
        python -m train.nothing
        sudo make sweep
        python -m sweeper run_id=<x y>
        python -m sweeper netwrk.rank=3
        python -m sweeper -m hydra/launcher=slrm
        python -m sweeper.select study=a selection=b
        make swep
        pip install -e '.[nix]'
        touch x
        mlflow server --prt 3
    """
    for command in wrong.split("\n")[1:-1]:
        with pytest.raises((AssertionError, pytest.fail.Exception, click.ClickException)):
            walk(command.strip())


def test_commands_are_found() -> None:
    text = "Do `make x` or `a b`.\n\n    one \\\n      two   # why\n    # three\n\n```\nfour\n```\n"
    text += "\n```yaml\nfive: 5\n```\n"
    assert commands(text) == ["one two   # why", "four", "make x"]
    assert words("A=1 python -m x 'b c' ... # why") == ["python", "-m", "x", "b c"]
    assert words(r".venv\Scripts\python -m x") == [".venv/bin/python", "-m", "x"]
    assert is_python("a = 1\nb(a)")
    assert not is_python("make x")


def test_the_walk(base_folder: Path, image_folder: Path, tmp_path: Path, configs: None) -> None:
    copy = tmp_path / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for name in ("config.toml", "data.toml"):  # files may name what lies beside them
        here = str(EMBEDDED_FOLDER.relative_to(ROOT))
        content = (tmp_path / name).read_text().replace(str(EMBEDDED_FOLDER), here)
        (copy / name).write_text(content)
    if not (copy / ".venv").exists():
        (copy / ".venv").symlink_to(sys.prefix)
    mine = {"/my/pictures": str(image_folder), "/my/model.safetensors": str(base_folder)}
    said = subprocess.run(
        [".venv/bin/python", "-m", "tests.walking"], input=written(steps(mine)), cwd=copy,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert said.returncode == 0, said.stdout
    assert said.stdout.count("verdict: ") == 3, said.stdout  # of the three ways to reproduce
    results = [copy / "mlruns/studies" / name / "result.json" for name in NAMES]
    assert [json.loads(file.read_text())["epoch"] for file in results] == [1] * len(NAMES)
    assert (copy / "outputs/lora/lora.safetensors").is_file()
    assert json.loads((copy / "outputs/scores/scorecards.json").read_text())["cards"]


def steps(mine: dict[str, str]) -> list[Step]:
    """The commands in their order, as far as REAL has them run; then the Python."""
    found = []
    for command in COMMANDS:
        lines = lines_of("sweep") if command.startswith("make sweep") else [command]
        for line in lines:
            if program_of(line) in ("python", "py"):
                found += step_of(line, mine)
    pieces = [block for text in TEXTS.values() for block in blocks(text) if is_python(block)]
    return found + [Step("", [], block) for block in pieces]


def step_of(line: str, mine: dict[str, str]) -> list[Step]:
    """A line for Python as a step, if it is run."""
    name, *arguments = words(filled_in(line))[2:]
    said = " ".join([name, *arguments])
    extra = next((short for start, short in REAL.items() if re.match(start, said)), None)
    if extra is None:
        unknown(line)
    if extra is None or isinstance(extra, str):
        return []
    for placeholder, value in mine.items():
        arguments = [argument.replace(placeholder, value) for argument in arguments]
    return [Step(name, [*arguments, *extra], copies=LORAS if name == "evaluate" else {})]
