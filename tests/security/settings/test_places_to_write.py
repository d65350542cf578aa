"""A config file cannot write into the program or a study, nor replace files of others."""

from __future__ import annotations

import io
import sqlite3
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evaluate.tracking import mlflow_store, store_address
from evaluate.tracking.mlflow_store import MlflowStore, TrackedRun
from sweeper import study_folder
from sweeper.study import storage
from sweeper.tracking import trial_record
from train.__main__ import CommandLine
from train.cli.arguments import normalized
from train.cli.compose import settings
from train.config.schema import CONF, TrainConfig
from train.config.setting_kinds import kinds
from train.errors import ConfigError
from train.files import permissions
from train.kohya.__main__ import main
from train.kohya.command_line import expand
from train.kohya.output_paths import check_replaced

PROGRAM = CONF.parent


@pytest.fixture(autouse=True)
def working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working folder, which also has the config."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write_config(text: str) -> str:
    Path("config.toml").write_text(text)
    return "kohya=config.toml"


def output_of(folder: object, *typed: str) -> str:
    """Returns the override of `output` from a config with this output_dir."""
    lines, _ = expand([write_config(f"output_dir = {str(folder)!r}"), *typed])
    return next(line for line in lines if line.startswith("output="))


@pytest.mark.parametrize("name", ["train", "train/puppets/weights/base/unet", "conf", "conf/new",
                                  "evaluate/x", "sweeper", "bench", "tests/a", "hydra_plugins",
                                  "bench/../train", "new/../train/puppets"])  # fmt: skip
def test_program_folders_are_refused(
    monkeypatch: pytest.MonkeyPatch, working_folder: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="output"):
        output_of(PROGRAM / name)  # the program is not allowed at all
    (working_folder / "link").symlink_to(PROGRAM)
    permissions.allow([PROGRAM])
    for place in (PROGRAM / name, f"link/{name}"):
        with pytest.raises(ConfigError, match=r"type output=|a folder of this program"):
            output_of(place)
        assert output_of(place, "output=mine") == "output=mine"
    assert permissions.may_read(PROGRAM / "train")  # for reading
    assert permissions.may_write(PROGRAM / "outputs" / "lora")


@pytest.mark.parametrize("place", ["mlruns", "mlruns/studies/a", "MLRUNS/x", "mlartifacts/1/a",
                                   "journal", "journal/new", "trial/sub", "run", "store/studies/b",
                                   "store/artifacts/x", "."])  # fmt: skip
def test_studies_and_stores_are_refused(working_folder: Path, place: str) -> None:
    for file in (
        "journal/optuna.journal",
        "trial/trial.json",
        "run/mlflow.json",
        "store/mlflow.db",
    ):
        Path(file).parent.mkdir()
        Path(file).touch()
    if place == ".":
        Path("trial.json").touch()
    with pytest.raises(ConfigError, match=r"output_dir: .* or of studies"):
        output_of(place)


def test_protected_names_are_those_of_studies_and_stores() -> None:
    assert {storage.JOURNAL_FILE, trial_record.RECORD_FILE, store_address.RUN_FILE} == {
        *permissions.RECORD_FILES
    }
    assert {study_folder.STUDIES, mlflow_store.ARTIFACTS} == {*permissions.STORE_FOLDERS}
    assert store_address.DATABASE == permissions.STORE_FILE
    assert TrainConfig().output == "outputs/lora"


@pytest.mark.parametrize("place", ["output", "./a/b", "store", "store/mine", "x" * 300])
def test_ordinary_output_folder_is_accepted(working_folder: Path, place: str) -> None:
    Path("store").mkdir()
    Path("store/mlflow.db").touch()
    Path("result.json").touch()
    assert output_of(place).endswith(place)
    assert Path(output_of(working_folder / place).partition("=")[2]) == working_folder / place


def save_lora(file: Path, **metadata: str) -> None:
    file.parent.mkdir(exist_ok=True)
    save_file({"a": torch.zeros(1)}, file, metadata)


def check_train_command(text: str, *typed: str) -> None:
    """Runs the checks of `python -m train` before anything is loaded."""
    line = CommandLine()
    lines = normalized(line.read([write_config(text), *typed]), kinds(TrainConfig))
    line.check(settings("train", TrainConfig, lines))


RUN_METADATA = {"lorasweep_config": "{}", "ss_output_name": "me"}


@pytest.mark.parametrize("metadata", [{}, {"ss_output_name": "me"}, RUN_METADATA])
@pytest.mark.parametrize("name", ["me", "me-000003"])
def test_existing_file_of_another_run_is_not_replaced(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, metadata: dict[str, str]
) -> None:
    save_lora(working_folder / "out" / f"{name}.safetensors", **metadata)
    text = 'output_dir = "out"\noutput_name = "me"'
    with pytest.raises(ConfigError, match=rf"output_name: out/{name}.safetensors exists already"):
        check_train_command(text)
    with pytest.raises(ConfigError, match="exists already"):
        check_train_command('output_name = "me"', "output=out")
    with pytest.raises(ConfigError, match="exists already"):
        check_train_command('output_dir = "out"', "name=me")
    check_train_command(text, "output=out", "name=me")  # the user may decide this
    check_train_command('output_dir = "out"\noutput_name = "other"')
    write_config(text)
    monkeypatch.setattr(sys, "argv", ["kohya", "config.toml"])
    with pytest.raises(SystemExit, match="exists already"):
        main()


def test_run_is_resumed_and_foreign_state_is_not_replaced(working_folder: Path) -> None:
    out, content = working_folder / "out", io.BytesIO()
    torch.save({"config": '{"fingerprints": []}'}, content)
    out.mkdir()
    (out / "me-state.pt").write_bytes(content.getvalue())
    check_replaced(out, "me")
    save_lora(out / "me.safetensors", **RUN_METADATA)
    check_replaced(out, "me")
    (out / "me-state.pt").write_bytes(b"broken")  # the run restarts from its last checkpoint
    check_replaced(out, "me")
    save_lora(out / "me-000001.safetensors")
    with pytest.raises(ConfigError, match="me-000001"):
        check_replaced(out, "me")
    with zipfile.ZipFile(out / "you-state.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"of another program")
    with pytest.raises(ConfigError, match="you-state"):
        check_replaced(out, "you")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "a\\\\b"])
def test_name_cannot_be_a_path(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_config(f'output_name = "{name}"')
    monkeypatch.setattr(sys, "argv", ["kohya", "config.toml"])
    with pytest.raises(SystemExit, match="name: "):
        main()


def test_received_store_cannot_redirect_artifacts(tmp_path: Path) -> None:
    """The artifacts of its experiment or run are elsewhere."""
    store, out = MlflowStore(tmp_path / "root", "first"), tmp_path / "home"
    run = TrackedRun(store, tmp_path / "mlflow.json", "a")
    first = run.id
    with closing(sqlite3.connect(store.root / "mlflow.db")) as opened, opened:
        opened.execute("UPDATE runs SET artifact_uri = ?", (out.as_uri(),))
    reopened = TrackedRun(MlflowStore(store.root, "first"), tmp_path / "mlflow.json", "a")
    reopened.begin({})
    reopened.log_text("text", "a.txt")
    assert reopened.id != first
    with closing(sqlite3.connect(store.root / "mlflow.db")) as opened, opened:
        opened.execute("UPDATE experiments SET artifact_location = ?", (out.as_uri(),))
    with pytest.raises(ConfigError, match="written elsewhere"):
        _ = TrackedRun(MlflowStore(store.root, "first"), tmp_path / "other.json", "b").id
    assert not out.exists()
