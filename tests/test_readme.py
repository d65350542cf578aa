"""Checks and runs the commands in the README and docs/.

Every command is checked: the files and modules that it names exist, and its settings pass the
checks that come before any model is loaded. The commands of EXECUTED, and all Python examples, are
also run with small settings, in a copy of the program without results. A new kind of command fails
until CHECKS or MODULES, below, say how to check it.
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

from sweeper.stop_request import REQUEST_FILE as STOP_FILE
from tests.documented_commands import (
    Step,
    blocks,
    commands,
    is_python,
    program_of,
    to_json,
    words,
)
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
COMMANDS: dict[str, str] = {}  # command -> the first file that contains it
for name, text in TEXTS.items():
    for command in commands(text):
        COMMANDS.setdefault(command, name)
TIMEOUT_SECONDS = 900
# which the commands create
STUDIES = ("puppets", "puppets_object", "my_person", "mine", "long", "me")

# placeholders in the texts, and their values in the tests
PLACEHOLDERS = {
    "<an MLflow run id of a trial>": "RUN_ID",  # of the preceding sweep
    "<its address>": "127.0.0.1",
    "--allow-path=/data": "--allow-path=.",
}
FAST = ("data.repeats=1", "training.epochs=1")
SMALL = (*FAST, "probes.count=8", "probes.steps=1", "scores.resamples=10", "scores.baseline=1",
         "final.probes=8", "final.rounds=1")  # fmt: skip
# /my/model.safetensors is a folder with a small model here, because the model in a single file
# always has full size
SMALL_BASE = (
    "data.resolution=32",
    "base.precision=fp32",
    "scores.clip_model=puppets",
    "scores.pose_detector=layout",
)
# out/my_lora*.safetensors of `python -m evaluate` are the results of the preceding sweep
LORAS = {"mlruns/studies/my_person/best.safetensors": ["out/my_lora.safetensors"]}
# Every command that starts a module of this project has an entry here, as a pattern. The value is
# either the settings that make it short, or the reason why it is not run. All are run in one
# folder, in the order of the texts.
ONE_TRIAL = ("hydra.sweeper.n_trials=1", *SMALL)
EXECUTED: dict[str, tuple[str, ...] | str] = {
    r"sweeper -m$": ONE_TRIAL,
    r"sweeper -m data\.path=/my/pictures .*study\.name=my_person$": (*ONE_TRIAL, *SMALL_BASE),
    r"sweeper network\.rank=16": SMALL,
    r"sweeper -m network\.rank=4,8,16": ONE_TRIAL,
    r"sweeper -m study\.enqueue=.*study\.name=long$": ONE_TRIAL,
    r"sweeper -m study\.name=me hydra\.sweeper\.n_trials=40": ONE_TRIAL,
    r"sweeper -m study\.name=me hydra/launcher=processes": "test_workers.py runs it",
    r"sweeper -m study\.name=me hydra/launcher=slurm": "there is no cluster",
    r"sweeper -m study\.name=me hydra/launcher=ray_cluster": "there is no cluster",
    r"sweeper -m data=puppets_object": ONE_TRIAL,
    r"sweeper --help": (),
    r"train output=": FAST,
    r"train kohya=config\.toml dataset_config": FAST,
    r"train\.kohya config\.toml": (),
    r"sweeper\.select study=puppets": (),
    r"sweeper\.report study=puppets": (),
    r"sweeper\.reproduce run_id=": (),
    r"sweeper\.reproduce study=puppets": (),
    r"sweeper\.reproduce lora=mlruns/studies/puppets": (),
    r"evaluate checkpoints=out/my_lora": (*SMALL[len(FAST) :], *SMALL_BASE),
    r"train\.puppets": "trains the embedded base for hours",
    r"bench\.": "takes minutes to hours",
    r"(venv|pip|pytest)": "installs packages, or runs these tests",
    r"(sweeper|evaluate|train)\b": "a similar command is run; the settings are checked",
}


def fail_unknown(command: object) -> None:
    pytest.fail(f"`{command}`: unknown command; add it to CHECKS, MODULES or PLACEHOLDERS")


def fill_placeholders(command: str) -> str:
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    if re.search(r"<[^>]*>", command):
        fail_unknown(command)
    return command


def check_command(command: str) -> None:
    """Fails if a command cannot work."""
    program = program_of(fill_placeholders(command))
    if program not in CHECKS:
        fail_unknown(command)
    CHECKS[program](words(fill_placeholders(command))[1:])


def check_python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "pip"]:
        check_pip(arguments[2:])
    elif arguments[:2] not in (["-m", "venv"], ["-m", "pytest"]):
        if arguments[:1] != ["-m"]:
            fail_unknown(f"python {' '.join(arguments)}")
        check_module(arguments[1], arguments[2:])


def check_module(name: str, arguments: list[str]) -> None:
    """Checks a command of this project: runs it up to the end of its checks."""
    spec = importlib.util.find_spec(name)
    assert spec, f"there is no module {name}"
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{name}.__main__")
        assert spec, f"{name} cannot be run"
    assert spec.origin
    source = Path(spec.origin).read_text(encoding="utf-8")
    if re.search(r"^ *run\($|^ *run\(\"", source, re.MULTILINE):  # of train.cli.app
        check_settings(name, arguments)
    elif name in MODULES:
        MODULES[name](arguments)
    elif name.startswith("bench.") and not arguments:
        assert 'if __name__ == "__main__":' in source
    else:
        fail_unknown(f"python -m {name} {' '.join(arguments)}")


def check_settings(name: str, arguments: list[str]) -> None:
    """Runs a command up to its work, or to its end for --cfg, --help and --info."""
    reached: list[str] = []
    work_flags = ("-m", "--multirun", ALLOW_PATH, ALLOW_CLASS)
    flags = [a for a in arguments if a.startswith("-") and a.partition("=")[0] not in work_flags]
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


def check_make(arguments: list[str]) -> None:
    """Checks each command of the make targets."""
    for line in make_commands(*arguments):
        check_command(line)


def make_commands(*targets: str) -> list[str]:
    """Returns the commands that make would run."""
    process = subprocess.run(
        ["make", "-n", "--no-print-directory", *targets], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", process.stdout).splitlines()]


def check_pip(arguments: list[str]) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)):
        for extra in extras.split(","):
            assert f"\n{extra} = [" in project, f"pyproject.toml has no extra {extra}"
    for option, file in itertools.pairwise(arguments):
        assert option != "-c" or (ROOT / file).is_file()


def check_touch(arguments: list[str]) -> None:
    (file,) = map(Path, arguments)
    is_stop_request = file.name == STOP_FILE and str(file.parent.parent) == "mlruns/studies"
    assert is_stop_request or file == Path(".venv/ready"), f"touch {file} does nothing"


def check_accelerate(arguments: list[str]) -> None:
    """Checks the options of `accelerate launch -m`, and the command that each process runs."""
    assert arguments.pop(0) == "launch"
    options = launch_command_parser().parse_args(arguments)
    assert options.module
    check_module(options.training_script, options.training_script_args)


def check_options(command: click.Command) -> Callable[[list[str]], None]:
    """Returns a check of the options of another program's command, which is not started."""

    def check(arguments: list[str]) -> None:
        inner = command
        while isinstance(inner, click.Group):
            inner = inner.commands[arguments.pop(0)]
        inner.make_context("", arguments)

    return check


def check_ray(arguments: list[str]) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    check_options(scripts.cli)(arguments)


def accept(arguments: list[str]) -> None:
    """Accepts any arguments: `make lint` runs ruff and mypy, and echo needs no check."""


def check_stages(arguments: list[str]) -> None:
    assert set(arguments) <= set(STAGES)


def check_translation(files: list[str]) -> None:
    assert expand([f"{key}={file}" for key, file in zip((KOHYA, DATASET), files, strict=False)])


def check_variable(arguments: list[str]) -> None:
    """Checks that `set` of Windows sets a variable that the Makefile sets too."""
    (assignment,) = arguments
    assert assignment in (ROOT / "Makefile").read_text(encoding="utf-8")


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "python": check_python,
    "make": check_make,
    "pip": check_pip,
    "touch": check_touch,
    "accelerate": check_accelerate,
    "mlflow": check_options(mlflow_command),
    "ray": check_ray,
    "set": check_variable,
    "ruff": accept,
    "mypy": accept,
    "echo": accept,
}
# modules of this project without Hydra, and the checks of their arguments
MODULES: dict[str, Callable[[list[str]], None]] = {
    "train.puppets": check_stages,
    "train.kohya": check_translation,
}


@pytest.fixture
def kohya_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes kohya's config.toml and data.toml in the working folder."""
    (tmp_path / "config.toml").write_text(
        f'pretrained_model_name_or_path = "puppets"\ntrain_data_dir = "{EMBEDDED_FOLDER}"\n'
    )
    subset = f'image_dir = "{EMBEDDED_FOLDER}"\nclass_tokens = "sks puppet"\n'
    (tmp_path / "data.toml").write_text(f"[[datasets]]\n[[datasets.subsets]]\n{subset}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "file"), COMMANDS.items())
@pytest.mark.usefixtures("kohya_configs", "capsys")
def test_command_is_valid(command: str, file: str) -> None:
    check_command(command)


@pytest.mark.parametrize("name", TEXTS)
def test_links_are_valid(name: str) -> None:
    """Linked files and headings exist."""
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_example_of_local_defaults_is_valid(tmp_path: Path) -> None:
    """The example of conf/local.yaml in docs/own-pictures.md has valid keys."""
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXTS["docs/own-pictures.md"], re.DOTALL)
    overrides = {f"{key}={value}" for key, value in flatten(yaml.safe_load(example)).items()}
    assert settings("train", TrainConfig, [*overrides, "data.trigger=sks person"])


def test_invalid_commands_are_found() -> None:
    invalid = """
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
    for command in invalid.split("\n")[1:-1]:
        with pytest.raises((AssertionError, pytest.fail.Exception, click.ClickException)):
            check_command(command.strip())


def test_commands_are_extracted() -> None:
    text = "Do `make x` or `a b`.\n\n    one \\\n      two   # why\n    # three\n\n```\nfour\n```\n"
    text += "\n```yaml\nfive: 5\n```\n"
    assert commands(text) == ["one two   # why", "four", "make x"]
    assert words("A=1 python -m x 'b c' ... # why") == ["python", "-m", "x", "b c"]
    assert words(r".venv\Scripts\python -m x") == [".venv/bin/python", "-m", "x"]
    assert is_python("a = 1\nb(a)")
    assert not is_python("make x")


def test_executed_commands_work(
    base_folder: Path, image_folder: Path, tmp_path: Path, kohya_configs: None
) -> None:
    copy = tmp_path / "copy"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for name in ("config.toml", "data.toml"):  # configs may name files in their own folder
        relative = str(EMBEDDED_FOLDER.relative_to(ROOT))
        content = (tmp_path / name).read_text().replace(str(EMBEDDED_FOLDER), relative)
        (copy / name).write_text(content)
    if not (copy / ".venv").exists():
        (copy / ".venv").symlink_to(sys.prefix)
    user_paths = {"/my/pictures": str(image_folder), "/my/model.safetensors": str(base_folder)}
    process = subprocess.run(
        [".venv/bin/python", "-m", "tests.documented_commands"],
        input=to_json(collect_steps(user_paths)), cwd=copy,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_SECONDS,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    # there are three ways to reproduce
    assert process.stdout.count("verdict: ") == 3, process.stdout
    results = [copy / "mlruns/studies" / name / "result.json" for name in STUDIES]
    assert [json.loads(file.read_text())["epoch"] for file in results] == [1] * len(STUDIES)
    assert (copy / "outputs/lora/lora.safetensors").is_file()
    assert json.loads((copy / "outputs/scores/scorecards.json").read_text())["cards"]


def collect_steps(user_paths: dict[str, str]) -> list[Step]:
    """Returns the steps of the commands that EXECUTED runs, then those of the Python examples."""
    steps = []
    for command in COMMANDS:
        lines = make_commands("sweep") if command.startswith("make sweep") else [command]
        for line in lines:
            if program_of(line) in ("python", "py"):
                steps += step_of(line, user_paths)
    examples = [block for text in TEXTS.values() for block in blocks(text) if is_python(block)]
    return steps + [Step("", [], block) for block in examples]


def step_of(line: str, user_paths: dict[str, str]) -> list[Step]:
    """Returns the step of a Python command, or an empty list if it is not run."""
    name, *arguments = words(fill_placeholders(line))[2:]
    command = " ".join([name, *arguments])
    extra = next((value for start, value in EXECUTED.items() if re.match(start, command)), None)
    if extra is None:
        fail_unknown(line)
    if extra is None or isinstance(extra, str):
        return []
    for placeholder, value in user_paths.items():
        arguments = [argument.replace(placeholder, value) for argument in arguments]
    return [Step(name, [*arguments, *extra], copies=LORAS if name == "evaluate" else {})]
