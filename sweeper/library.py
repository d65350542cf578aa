"""Studies as functions, for notebooks and scripts; listed in `sweeper/__init__.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from sweeper.config import SweepConfig, check_search, check_sweep
from sweeper.execution.study_command import INTERRUPTED
from sweeper.execution.workers import run_search
from sweeper.results.checkpoint_files import RESULT_FILE
from sweeper.search.conditional_params import is_active
from sweeper.study_folder import study_folder
from train.cli.preflight import preflight
from train.errors import ConfigError
from train.files.untrusted import read_json


@dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        folder: the study's folder, which contains `report.html`.
        checkpoint: the LoRA file to keep; None if no trial has one.
        trial, epoch: the trial and epoch of the checkpoint.
        fidelity: geometric mean of its likeness and prompt fidelity; None if undefined.
        scores: name -> value.
        reasons: why it was selected, as sentences.
    """

    folder: Path
    checkpoint: Path | None
    trial: int | None
    epoch: int | None
    fidelity: float | None
    scores: dict[str, float]
    reasons: list[str]


class _Result(msgspec.Struct):
    """The fields of result.json that are read."""

    checkpoint: str | None = None
    trial: int | None = None
    epoch: int | None = None
    fidelity: float | None = None
    scores: dict[str, float] = {}
    reasons: list[str] = []


def run_study(name: str, *overrides: str, root: str | Path = "mlruns") -> StudyResult:
    """Runs a study in this process, like `python -m sweeper -m study.name=NAME`.

    The same call continues an interrupted study, and returns the result of a finished one.

    Args:
        name: name of the study.
        overrides: settings and sweeps as on the command line; without a sweep, conf/search is used.
        root: the folder for studies, MLflow's store and caches.

    Raises:
        ConfigError: invalid settings, or any other error that ends the command.
        KeyboardInterrupt: the study was stopped.

    Example:
        >>> result = run_study(
        ...     "tiny", "network.rank=2,4", "training.epochs=2", "data.repeats=1",
        ...     "probes.count=8", "scores.baseline=1", "hydra.sweeper.n_trials=2",
        ... )
        >>> result.checkpoint.name, result.epoch in (1, 2)
        ('best.safetensors', True)
    """
    arguments = ["-m", "study.name=" + name, "study.root=" + str(root), *overrides]
    try:
        line = preflight("sweep", arguments, SweepConfig, check_sweep, is_active, check_search)
        run_search([argument for argument in line if argument != "-m"])
    except SystemExit as end:
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        raise ConfigError(str(end.code).removeprefix("error: ")) from None
    return load_result(name, root)


def load_result(name: str, root: str | Path = "mlruns") -> StudyResult:
    """Loads the result of a study.

    Raises:
        ConfigError: the study does not exist, or has no result yet.
    """
    folder = study_folder(Path(root), name)
    file = folder / RESULT_FILE
    if not file.is_file():
        raise ConfigError(f"{file}: the study has no result yet")
    result = read_json(file, _Result)
    checkpoint = folder / result.checkpoint if result.checkpoint else None
    return StudyResult(**asdict(result) | {"folder": folder, "checkpoint": checkpoint})
