"""A file names no place to write where it could do harm, and replaces no file of another's."""

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
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working folder, in which the config lies."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def config(text: str) -> str:
    Path("config.toml").write_text(text)
    return "kohya=config.toml"


def written(folder: object, *typed: str) -> str:
    """The output of a config that names this folder."""
    lines, _ = expand([config(f"output_dir = {str(folder)!r}"), *typed])
    return next(line for line in lines if line.startswith("output="))


@pytest.mark.parametrize("name", ["train", "train/puppets/weights/base/unet", "conf", "conf/new",
                                  "evaluate/x", "sweeper", "bench", "tests/a", "hydra_plugins",
                                  "bench/../train", "new/../train/puppets"])  # fmt: skip
def test_the_program_is_not_written_to(
    monkeypatch: pytest.MonkeyPatch, here: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="output"):
        written(PROGRAM / name)  # it is not even named
    (here / "link").symlink_to(PROGRAM)
    permissions.allow([PROGRAM])
    for place in (PROGRAM / name, f"link/{name}"):
        with pytest.raises(ConfigError, match=r"type output=|a folder of this program"):
            written(place)
        assert written(place, "output=mine") == "output=mine"
    assert permissions.may_read(PROGRAM / "train")  # to be read
    assert permissions.may_write(PROGRAM / "outputs" / "lora")


@pytest.mark.parametrize("place", ["mlruns", "mlruns/studies/a", "MLRUNS/x", "mlartifacts/1/a",
                                   "journal", "journal/new", "trial/sub", "run", "store/studies/b",
                                   "store/artifacts/x", "."])  # fmt: skip
def test_studies_and_stores_are_not_written_to(here: Path, place: str) -> None:
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
        written(place)


def test_the_names_are_those_that_are_written() -> None:
    assert {storage.JOURNAL_FILE, trial_record.RECORD_FILE, store_address.RUN_FILE} == {
        *permissions.RECORD_FILES
    }
    assert {study_folder.STUDIES, mlflow_store.ARTIFACTS} == {*permissions.STORE_FOLDERS}
    assert store_address.DATABASE == permissions.STORE_FILE
    assert TrainConfig().output == "outputs/lora"


@pytest.mark.parametrize("place", ["output", "./a/b", "store", "store/mine", "x" * 300])
def test_an_ordinary_config_is_understood(here: Path, place: str) -> None:
    Path("store").mkdir()
    Path("store/mlflow.db").touch()
    Path("result.json").touch()
    assert written(place).endswith(place)
    assert Path(written(here / place).partition("=")[2]) == here / place


def lora(file: Path, **about: str) -> None:
    file.parent.mkdir(exist_ok=True)
    save_file({"a": torch.zeros(1)}, file, about)


def checked(text: str, *typed: str) -> None:
    """What `python -m train` checks before anything is loaded."""
    line = CommandLine()
    lines = normalized(line.read([config(text), *typed]), kinds(TrainConfig))
    line.check(settings("train", TrainConfig, lines))


OWN = {"lorasweep_config": "{}", "ss_output_name": "me"}


@pytest.mark.parametrize("about", [{}, {"ss_output_name": "me"}, OWN])
@pytest.mark.parametrize("name", ["me", "me-000003"])
def test_no_file_is_replaced_that_is_of_no_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, about: dict[str, str]
) -> None:
    lora(here / "out" / f"{name}.safetensors", **about)
    said = 'output_dir = "out"\noutput_name = "me"'
    with pytest.raises(ConfigError, match=rf"output_name: out/{name}.safetensors exists already"):
        checked(said)
    with pytest.raises(ConfigError, match="exists already"):
        checked('output_name = "me"', "output=out")
    with pytest.raises(ConfigError, match="exists already"):
        checked('output_dir = "out"', "name=me")
    checked(said, "output=out", "name=me")  # it is the person who says so
    checked('output_dir = "out"\noutput_name = "other"')
    config(said)
    monkeypatch.setattr(sys, "argv", ["kohya", "config.toml"])
    with pytest.raises(SystemExit, match="exists already"):
        main()


def test_a_run_goes_on_and_what_is_no_state_stays(here: Path) -> None:
    out, content = here / "out", io.BytesIO()
    torch.save({"config": '{"fingerprints": []}'}, content)
    out.mkdir()
    (out / "me-state.pt").write_bytes(content.getvalue())
    check_replaced(out, "me")
    lora(out / "me.safetensors", **OWN)
    check_replaced(out, "me")
    (out / "me-state.pt").write_bytes(b"broken")  # the run goes on from its last checkpoint
    check_replaced(out, "me")
    lora(out / "me-000001.safetensors")
    with pytest.raises(ConfigError, match="me-000001"):
        check_replaced(out, "me")
    with zipfile.ZipFile(out / "you-state.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"of another program")
    with pytest.raises(ConfigError, match="you-state"):
        check_replaced(out, "you")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "a\\\\b"])
def test_a_name_is_no_path(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config(f'output_name = "{name}"')
    monkeypatch.setattr(sys, "argv", ["kohya", "config.toml"])
    with pytest.raises(SystemExit, match="name: "):
        main()


def test_a_store_does_not_say_where_its_files_are_written(tmp_path: Path) -> None:
    """A received one, whose experiment or run has its files elsewhere."""
    store, out = MlflowStore(tmp_path / "root", "first"), tmp_path / "home"
    run = TrackedRun(store, tmp_path / "mlflow.json", "a")
    first = run.id
    with closing(sqlite3.connect(store.root / "mlflow.db")) as opened, opened:
        opened.execute("UPDATE runs SET artifact_uri = ?", (out.as_uri(),))
    again = TrackedRun(MlflowStore(store.root, "first"), tmp_path / "mlflow.json", "a")
    again.begin({})
    again.log_text("text", "a.txt")
    assert again.id != first
    with closing(sqlite3.connect(store.root / "mlflow.db")) as opened, opened:
        opened.execute("UPDATE experiments SET artifact_location = ?", (out.as_uri(),))
    with pytest.raises(ConfigError, match="written elsewhere"):
        _ = TrackedRun(MlflowStore(store.root, "first"), tmp_path / "other.json", "b").id
    assert not out.exists()
