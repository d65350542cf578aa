"""How a command's settings are composed, explained and completed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from evaluate.config import EvaluateConfig
from sweeper.config import ReportConfig, SelectConfig, SweepConfig, check_sweep
from sweeper.reproduction.config import ReproduceConfig
from train.cli.app import run
from train.cli.completion import BASH
from train.cli.compose import HYDRA_VERSION, settings
from train.cli.preflight import preflight
from train.config.schema import CONF, LOCAL_SETTINGS, TrainConfig

Said = Callable[..., str]
LOCAL = """
optimizer: lion
data:
  trigger: mine person
study:
  root: /big/disk
output: out
hydra:
  sweeper:
    n_trials: 5
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of conf/ with a local.yaml."""
    folder = tmp_path / "conf"
    shutil.copytree(CONF, folder, ignore=shutil.ignore_patterns("local.yaml"))
    for module in ("app", "compose", "hydra_errors", "preflight"):
        monkeypatch.setattr(f"train.cli.{module}.CONF", folder)
    (folder / "local.yaml").write_text(LOCAL)
    yield folder
    ConfigStore.instance().store(LOCAL_SETTINGS, {})


def test_precedence_of_command_line_local_and_shipped_defaults(conf: Path) -> None:
    custom = settings("sweep", SweepConfig)
    assert (custom.data.trigger, custom.study.root) == ("mine person", "/big/disk")
    assert custom.optimizer["_target_"].endswith("Lion")
    reported = ["data.trigger=other", "optimizer=adamw", "study.root=here"]
    now = settings("sweep", SweepConfig, reported)
    assert (now.data.trigger, now.study.root) == ("other", "here")
    assert now.optimizer["_target_"].endswith("AdamW")
    with initialize_config_dir(str(conf), version_base=HYDRA_VERSION):
        assert compose("sweep", return_hydra_config=True).hydra.sweeper.n_trials == 5


def test_local_defaults_of_other_commands_are_ignored(conf: Path) -> None:
    assert settings("train", TrainConfig).output == "out"
    assert settings("evaluate", EvaluateConfig).data.trigger == "mine person"
    assert settings("sweep", SweepConfig).data.trigger == "mine person"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("studdy: {root: x}", "conf/local.yaml: studdy: .*did you mean study"),
        ("data: {trigge: x}", "conf/local.yaml: data.trigge: .*did you mean data.trigger"),
        ("training: {epochs: many}", "conf/local.yaml: training.epochs: "),
        ("training: {epochs: 0}", "conf/local.yaml: training.epochs: 0 must be from 1"),
        ("optimizer: lionn", "optimizer: 'lionn' is not one of .*did you mean lion"),
        ("data: [", "conf/local.yaml: .*"),
        ("just words", "conf/local.yaml: must hold settings"),
        ("data: [x]", "conf/local.yaml: data: a list cannot be; .* such as data.path"),
        ("scheduler: [linear]", "conf/local.yaml: scheduler: a list cannot be"),
        ("study: {budget: [1]}", "conf/local.yaml: study.budget: a list .* study.budget.hours"),
        ("hydra: [1]", "conf/local.yaml: hydra: a list cannot be"),
        ("defaults: [x]", "conf/local.yaml: defaults: there is no such setting"),
        (f"data: {[1] * 30_000}", "conf/local.yaml: must hold settings.*is larger than 64 KB"),
    ],
)
def test_wrong_local_default_is_named(conf: Path, line: str, words: str) -> None:
    (conf / "local.yaml").write_text(line)
    with pytest.raises(SystemExit, match=f"error: {words}") as exit_info:
        preflight("sweep", [], SweepConfig, check_sweep)
    assert "\n" not in str(exit_info.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "selection.weights={nonsense: 1}",
            r"selection\.weights\.nonsense: there is no .*prompt_fid",
        ),
        ("selection.min={nonsense: 1}", r"selection\.min\.nonsense: there is no .*prompt_fid"),
        ("selection.max.copyin=1", r"selection\.max\.copyin: .*did you mean copying\?"),
        (
            "selection.weights={copying: 1}",
            r"selection\.weights\.copying: .*type \+selection\.weights\.",
        ),
        ("study={budget: {hors: 1}}", r"study\.budget\.hors: .*did you mean study\.budget\.hours"),
    ],
)
def test_wrong_entry_of_a_setting_is_named(line: str, words: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: {words}") as exit_info:
        preflight("sweep", [line], SweepConfig, check_sweep)
    assert "\n" not in str(exit_info.value)


@pytest.fixture
def command_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Said]:
    """The output of a command that is run in this process, which is faster."""

    def run_it(name: str, schema: type, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with contextlib.suppress(SystemExit):
            run(name, schema, lambda config: None, "pytest:fail")
        return capsys.readouterr().out

    root, hydra = logging.getLogger(), logging.getLogger("hydra")
    handlers, level = root.handlers[:], hydra.level
    yield run_it
    root.handlers[:] = handlers
    hydra.setLevel(level)
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("name", "schema", "module"),
    [
        ("train", TrainConfig, "train"),
        ("sweep", SweepConfig, "sweeper"),
        ("evaluate", EvaluateConfig, "evaluate"),
        ("select", SelectConfig, "sweeper.select"),
        ("report", ReportConfig, "sweeper.report"),
        ("reproduce", ReproduceConfig, "sweeper.reproduce"),
    ],
)
def test_help_has_examples_and_the_settings(
    command_output: Said, name: str, schema: type, module: str
) -> None:
    text = command_output(name, schema, "--help")
    assert f"python -m {module} " in text
    assert "is explained, with its unit and range, in its file in conf/" in text
    assert "${" not in text, "values, and not what they are made of"


def test_help_lists_the_groups_of_the_command(command_output: Said) -> None:
    lines = command_output("train", TrainConfig, "--help").splitlines()
    start = lines.index(next(line for line in lines if line.startswith("base: ")))
    groups = lines[start : lines.index("", start)]
    names = [line.partition(":")[0] for line in groups]
    assert names == ["base", "data", "network", "optimizer", "scheduler", "training", "preset"]
    assert groups[0] == "base: puppets, sd15, sdxl"


def test_info_and_cfg_flags(command_output: Said) -> None:
    assert "main     | file://" in command_output("train", TrainConfig, "--info")
    output = command_output("train", TrainConfig, "--cfg", "job")
    assert "rank: 8" in output
    assert "${" not in output


def test_tab_completion_of_a_module(command_output: Said, tmp_path: Path) -> None:
    assert command_output("train", TrainConfig, "-sc", "install=bash").strip() == BASH.strip()
    assert completed("train optimizer=adamw", tmp_path) == [
        "optimizer=adamw",
        "optimizer=adamw8bit",
    ]


def completed(line: str, folder: Path) -> list[str]:
    """What tab completion offers after `python -m` and this line."""
    program = folder / "python"
    program.symlink_to(sys.executable)
    script = (
        f"{BASH}\nCOMP_LINE='{program} -m {line}'; COMP_WORDS=($COMP_LINE); "
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _lorasweep"
    )
    process = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{COMPREPLY[*]}}"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True,
    )  # fmt: skip
    return process.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("train --al", ["--allow-path=", "--allow-class="]),
        ("train --allow-path=/usr/share/di", ["--allow-path=/usr/share/dict"]),
        (
            "train --allow-path=/a --allow-class b.C optimizer=li",
            ["optimizer=lion", "optimizer=lion8bit"],
        ),
    ],
)
def test_tab_completion_of_our_own_flags(line: str, offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    line = line.replace("/usr/share/di", f"{tmp_path}/pic")
    offered = [word.replace("/usr/share/dict", f"{tmp_path}/pictures") for word in offered]
    assert completed(line, tmp_path) == offered
