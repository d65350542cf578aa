"""A real, tiny sweep through the command line, shared by the tests that inspect its results."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from evaluate.tracking.relocation import ADDRESS_COLUMNS
from tests.commands import LIMIT, Command, OwnCommand
from tests.sweeper.packs import make, run  # noqa: F401

# two trials of two epochs, with few steps and few probes
SEARCH = ("-m", "network.rank=2,4", "hydra.sweeper.n_trials=2", "study.name=small")
SMALL = (
    "training.epochs=2",
    "data.repeats=1",
    "study.keep_checkpoints=all",
    "probes.count=8",
    "probes.steps=2",
    "scores.baseline=2",
    "scores.resamples=20",
    "early_stop.min_progress_share=0",  # three steps teach nothing
)


def start(module: str, *arguments: str, typed: bool = False) -> Command | OwnCommand:
    """Starts a command that does not inherit a tracking server.

    Args:
        typed: whether to start a new Python process, as a person does.
    """
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    launches = any(argument.startswith("hydra/launcher=") for argument in arguments)
    kind = OwnCommand if typed or launches else Command  # joblib never ends in a forked process
    return kind(module, *arguments, environment=environment)


def finish(root: Path, module: str, *arguments: str) -> tuple[int, str]:
    """Runs a command on a study to its end; returns exit code and output."""
    return run_module(module, *arguments, f"study.root={root}")


def run_module(module: str, *arguments: str) -> tuple[int, str]:
    """Runs a command to its end; returns exit code and output."""
    return start(module, *arguments).finish(LIMIT)


def send_signal_at(
    root: Path, line: str, signal_number: signal.Signals, *arguments: str
) -> tuple[int, str]:
    """Starts a sweep and sends a signal once a line of its output contains `line`."""
    process = start("sweeper", *arguments, f"study.root={root}")
    output, deadline = "", time.monotonic() + LIMIT
    for text in process.stdout:
        output += text
        assert time.monotonic() < deadline, output
        if line in text:
            process.send_signal(signal_number)
            break
    code, rest = process.finish(LIMIT)
    return code, output + rest


@dataclass(frozen=True)
class Swept:
    """A finished sweep."""

    root: Path
    output: str

    @property
    def study(self) -> Path:
        return self.root / "studies" / "small"


def copy_sweep(swept: Swept, root: Path, *ignored: str) -> Path:
    """Copies a finished sweep's root; the copy has its own artifacts.

    Args:
        ignored: names of files that are not copied.
    """
    shutil.copytree(swept.root, root, ignore=shutil.ignore_patterns(*ignored))
    with closing(sqlite3.connect(root / "mlflow.db")) as store, store:
        for table, column in ADDRESS_COLUMNS:
            places = ((swept.root / "artifacts").as_uri(), (root / "artifacts").as_uri())
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", places)
    return root


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the processes that share the tests share this sweep
    root, output_file = folder / "swept" / "mlruns", folder / "swept" / "output.txt"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "swept.lock"):
        if not output_file.is_file():
            arguments = (*SEARCH, *SMALL, f"study.root={root}")
            code, output = start("sweeper", *arguments, typed=True).finish(LIMIT)
            assert code == 0, output
            output_file.write_text(output)
    return Swept(root, output_file.read_text())


@pytest.fixture
def fresh(swept: Swept, tmp_path: Path) -> Path:
    """A root without studies, with the baseline images of SMALL in its cache."""
    shutil.copytree(swept.root / "cache", tmp_path / "cache")
    return tmp_path
