"""No command reads or writes outside an untrusted study through links in it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.study_folder import checked_folder, study_folder
from tests.sweeper.conftest import SEARCH, SMALL, Swept, copy_sweep, run_module
from tests.sweeper.conftest import swept as swept  # the sweep that other tests use too
from train.errors import CheckpointError, ConfigError
from train.files.atomic_write import write_atomically


def make_outside(root: Path) -> Path:
    """Creates a folder with a file that no command may access."""
    folder = root.parent / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    return folder


def replace_by_link(relative: str) -> Callable[[Path, Path], None]:
    """Returns a function that replaces a file or folder of a study by a link."""

    def change(study: Path, elsewhere: Path) -> None:
        path = study / relative
        target = elsewhere / path.name
        if path.is_dir():
            shutil.move(path, target)
        elif path.exists():
            path.unlink()
        path.symlink_to(target)

    return change


def make_record_a_pipe(study: Path, elsewhere: Path) -> None:
    (study / "trials" / "0000" / "trial.json").unlink()
    os.mkfifo(study / "trials" / "0000" / "trial.json")


def make_journal_a_pipe(study: Path, elsewhere: Path) -> None:
    (study / "optuna.journal").unlink()
    os.mkfifo(study / "optuna.journal")


def link_run_file_to_device(study: Path, elsewhere: Path) -> None:
    (study / "trials" / "0001" / "mlflow.json").unlink()
    (study / "trials" / "0001" / "mlflow.json").symlink_to("/dev/zero")


CHANGES = {
    name: replace_by_link(name)
    for name in (
        "overview.png", "probes.yaml", "report.html", "result.json", "best.safetensors",
        "data.png", "optuna.journal", "optuna.journal.lock", "study.lock", "mlflow.json",
        "mlflow.lock", "leave", "trials", "trials/0000", "trials/0000/sheets",
        "trials/0000/trial.json", "trials/0001/error.txt", "trials/0001/at-work",
        "trials/0001/holder", "trials/0001/sheets/000001.png", "trials/0007",
    )
} | {
    "pipe": make_record_a_pipe, "journal": make_journal_a_pipe, "endless": link_run_file_to_device,
}  # fmt: skip


@pytest.fixture(scope="module")
def received(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a received study, without an MLflow store."""
    return copy_sweep(swept, tmp_path_factory.mktemp("received") / "mlruns")


@pytest.mark.parametrize("name", CHANGES)
def test_study_with_links_or_pipes_is_refused(name: str, received: Path, tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    shutil.copytree(received / "studies", root / "studies")
    CHANGES[name](root / "studies" / "small", make_outside(root))
    with pytest.raises(ConfigError, match=r"is a (link|pipe)") as caught:
        study_folder(root, "small")
    assert "\n" not in str(caught.value)


def test_root_may_be_a_link_but_a_study_may_not(received: Path, tmp_path: Path) -> None:
    (tmp_path / "mlruns").symlink_to(received)
    assert study_folder(tmp_path / "mlruns", "small").is_dir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "studies").symlink_to(received / "studies")
    assert study_folder(tmp_path / "other", "small").is_dir()
    (tmp_path / "third" / "studies").mkdir(parents=True)
    (tmp_path / "third" / "studies" / "small").symlink_to(received / "studies" / "small")
    with pytest.raises(ConfigError, match="third/studies/small: is a link"):
        study_folder(tmp_path / "third", "small")


INVALID_NAMES = (
    "",
    ".",
    "..",
    "../small",
    "/etc",
    "a/b",
    "a\nb",
    "-x",
    ".hidden",
    "a" * 81,
    "a\0",
    "é",
)


@pytest.mark.parametrize("name", INVALID_NAMES)
def test_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="letters, digits") as caught:
        study_folder(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_deep_folders_and_sockets_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "studies" / "small"
    (deep / "/".join("d" * 400)).mkdir(parents=True)
    with pytest.raises(ConfigError, match="levels"):
        study_folder(tmp_path, "small")
    sockets = tmp_path / "s"
    sockets.mkdir()
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(sockets / "x"))
        with pytest.raises(ConfigError, match="a socket"):
            checked_folder(sockets)


def test_link_created_later_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    elsewhere = make_outside(root)
    study = study_folder(root, "small")
    write_atomically(study / "trials" / "0000" / "trial.json", b"{}")
    shutil.rmtree(study / "trials")
    (study / "trials").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=r"trials is a link"):
        write_atomically(study / "trials" / "0000" / "trial.json", b"{}")
    (study / "trials").unlink()
    (study / "result.json").symlink_to(elsewhere / "secret.txt")
    write_atomically(study / "result.json", b"{}")
    assert not (study / "result.json").is_symlink()
    assert [file.name for file in elsewhere.iterdir()] == ["secret.txt"]
    assert (elsewhere / "secret.txt").read_text() == "secret"


def test_typed_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk")
    write_atomically(tmp_path / "output" / "lora.safetensors", b"weights")
    assert (tmp_path / "disk" / "lora.safetensors").read_bytes() == b"weights"


def all_files(folder: Path) -> list[tuple[str, bytes]]:
    """Returns the paths and contents of a folder, without following links."""
    return sorted(
        (str(file), file.read_bytes() if file.is_file() and not file.is_symlink() else b"")
        for file in folder.rglob("*")
    )


COMMANDS: dict[str, tuple[str, ...]] = {
    "sweep": ("sweeper", *SEARCH, *SMALL),
    "from_study": ("sweeper", "-m", "network.rank=2,4", "study.warm_start=small", "study.name=o"),
    "select": ("sweeper.select", "study=small", "apply=true"),
    "report": ("sweeper.report", "study=small"),
    "reproduce": ("sweeper.reproduce", "study=small"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_study_with_links(
    command: str, received: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mlruns"
    shutil.copytree(received / "studies", root / "studies")
    elsewhere = make_outside(root)
    CHANGES["overview.png"](root / "studies" / "small", elsewhere)
    CHANGES["trials"](root / "studies" / "small", elsewhere)
    before = all_files(elsewhere)
    module, *settings = COMMANDS[command]
    key = "study.root" if module == "sweeper" else "root"
    code, output = run_module(module, *settings, f"{key}={root}")
    assert code == 1, output
    assert "small/overview.png: is a link" in output or "small/trials: is a link" in output
    assert "Traceback" not in output
    assert all_files(elsewhere) == before


def write_hostile_config(folder: Path) -> Path:
    """Writes a config folder whose study name is a path."""
    (folder / "study").mkdir(parents=True)
    (folder / "study" / "evil.yaml").write_text("# @package study\nname: ../../../y\n")
    return folder


@pytest.mark.parametrize("multirun", [("-m", "network.rank=2,4"), ()])
@pytest.mark.parametrize("name", ["study.name=../../y", "+study=evil", "study.name=/tmp/y"])
def test_config_cannot_write_outside_the_root(
    name: str, multirun: tuple[str, ...], tmp_path: Path
) -> None:
    folder, root = write_hostile_config(tmp_path / "theirs"), tmp_path / "deep" / "mlruns"
    arguments = (*multirun, f"--config-dir={folder}", name, f"study.root={root}", *SMALL)
    before = all_files(tmp_path)
    code, output = run_module("sweeper", *arguments)
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("error: study.name: ")
    assert all_files(tmp_path) == before
