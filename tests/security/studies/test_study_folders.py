"""A study that somebody else has sent leads nowhere else, neither in reading nor in writing."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.study_folder import checked_folder, study_folder
from tests.sweeper.conftest import SEARCH, SMALL, Swept, copy_sweep, run_module
from tests.sweeper.conftest import swept as swept  # the same sweep as the other tests'
from train.errors import CheckpointError, ConfigError
from train.files.atomic_write import write_atomically


def outside(root: Path) -> Path:
    """A folder that no command may touch, with something to find in it."""
    folder = root.parent / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    return folder


def link(relative: str) -> Callable[[Path, Path], None]:
    """Puts a link in the place of a study's file or folder."""

    def change(study: Path, elsewhere: Path) -> None:
        place = study / relative
        target = elsewhere / place.name
        if place.is_dir():
            shutil.move(place, target)
        elif place.exists():
            place.unlink()
        place.symlink_to(target)

    return change


def pipe(study: Path, elsewhere: Path) -> None:
    (study / "trials" / "0000" / "trial.json").unlink()
    os.mkfifo(study / "trials" / "0000" / "trial.json")


def journal_pipe(study: Path, elsewhere: Path) -> None:
    (study / "optuna.journal").unlink()
    os.mkfifo(study / "optuna.journal")


def endless(study: Path, elsewhere: Path) -> None:
    (study / "trials" / "0001" / "mlflow.json").unlink()
    (study / "trials" / "0001" / "mlflow.json").symlink_to("/dev/zero")


LEADING_AWAY = {
    name: link(name)
    for name in (
        "overview.png", "probes.yaml", "report.html", "result.json", "best.safetensors",
        "data.png", "optuna.journal", "optuna.journal.lock", "study.lock", "mlflow.json",
        "mlflow.lock", "leave", "trials", "trials/0000", "trials/0000/sheets",
        "trials/0000/trial.json", "trials/0001/error.txt", "trials/0001/at-work",
        "trials/0001/holder", "trials/0001/sheets/000001.png", "trials/0007",
    )
} | {"pipe": pipe, "journal": journal_pipe, "endless": endless}  # fmt: skip


@pytest.fixture(scope="module")
def received(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a study that was sent, without the sender's store."""
    return copy_sweep(swept, tmp_path_factory.mktemp("received") / "mlruns")


@pytest.mark.parametrize("name", LEADING_AWAY)
def test_a_study_that_leads_away_is_refused(name: str, received: Path, tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    shutil.copytree(received / "studies", root / "studies")
    LEADING_AWAY[name](root / "studies" / "small", outside(root))
    with pytest.raises(ConfigError, match=r"is a (link|pipe)") as refused:
        study_folder(root, "small")
    assert "\n" not in str(refused.value)


def test_the_study_itself_is_no_link_but_its_root_may_be_one(
    received: Path, tmp_path: Path
) -> None:
    (tmp_path / "mlruns").symlink_to(received)
    assert study_folder(tmp_path / "mlruns", "small").is_dir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "studies").symlink_to(received / "studies")
    assert study_folder(tmp_path / "other", "small").is_dir()
    (tmp_path / "third" / "studies").mkdir(parents=True)
    (tmp_path / "third" / "studies" / "small").symlink_to(received / "studies" / "small")
    with pytest.raises(ConfigError, match="third/studies/small: is a link"):
        study_folder(tmp_path / "third", "small")


NO_NAMES = ("", ".", "..", "../small", "/etc", "a/b", "a\nb", "-x", ".hidden", "a" * 81, "a\0", "é")


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_is_a_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="letters, digits") as refused:
        study_folder(tmp_path, name)
    assert "\n" not in str(refused.value)


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "studies" / "small"
    (deep / "/".join("d" * 400)).mkdir(parents=True)
    with pytest.raises(ConfigError, match="levels"):
        study_folder(tmp_path, "small")
    sockets = tmp_path / "s"
    sockets.mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(sockets / "x"))
        with pytest.raises(ConfigError, match="a socket"):
            checked_folder(sockets)


def test_nothing_is_written_through_a_link_that_appears_later(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    elsewhere = outside(root)
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


def test_a_typed_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk")
    write_atomically(tmp_path / "output" / "lora.safetensors", b"weights")
    assert (tmp_path / "disk" / "lora.safetensors").read_bytes() == b"weights"


def as_it_was(folder: Path) -> list[tuple[str, bytes]]:
    """What is below a folder, links not followed."""
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
def test_every_command_stops_at_the_door(command: str, received: Path, tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    shutil.copytree(received / "studies", root / "studies")
    elsewhere = outside(root)
    LEADING_AWAY["overview.png"](root / "studies" / "small", elsewhere)
    LEADING_AWAY["trials"](root / "studies" / "small", elsewhere)
    before = as_it_was(elsewhere)
    module, *settings = COMMANDS[command]
    place = "study.root" if module == "sweeper" else "root"
    code, output = run_module(module, *settings, f"{place}={root}")
    assert code == 1, output
    assert "small/overview.png: is a link" in output or "small/trials: is a link" in output
    assert "Traceback" not in output
    assert as_it_was(elsewhere) == before


def evil(folder: Path) -> Path:
    """A folder of configs whose study is called by a path."""
    (folder / "study").mkdir(parents=True)
    (folder / "study" / "evil.yaml").write_text("# @package study\nname: ../../../y\n")
    return folder


@pytest.mark.parametrize("many", [("-m", "network.rank=2,4"), ()])
@pytest.mark.parametrize("name", ["study.name=../../y", "+study=evil", "study.name=/tmp/y"])
def test_no_config_writes_outside_of_the_root(
    name: str, many: tuple[str, ...], tmp_path: Path
) -> None:
    folder, root = evil(tmp_path / "theirs"), tmp_path / "deep" / "mlruns"
    arguments = (*many, f"--config-dir={folder}", name, f"study.root={root}", *SMALL)
    before = as_it_was(tmp_path)
    code, output = run_module("sweeper", *arguments)
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("error: study.name: ")
    assert as_it_was(tmp_path) == before
