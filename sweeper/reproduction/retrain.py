"""The training of a run again: the same loop, with the same settings, into a run of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from evaluate.config import PolicyConfig
from sweeper.config import SweepConfig
from sweeper.console.progress import Progress, duration
from sweeper.execution.context import StudyContext, origin
from sweeper.execution.early_stopping import until
from sweeper.execution.pack_runner import run_trials
from sweeper.execution.trial import ADAPTED, Trial
from sweeper.reproduction.compare import compare
from sweeper.reproduction.original_run import Original
from sweeper.stop_request import graceful_stop, leaving
from sweeper.study_folder import closed
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import FAILED, ScoredEpoch, TrialRecord, resume_record
from train.errors import TrainingError

log = logging.getLogger(__name__)
PLACE, REPRODUCTION_OF = "reproductions", "reproduction_of"
CARRIED = (ADAPTED,)  # tags that say how a run was trained other than its settings do


class Comparing(Progress):
    """A line an epoch: how near it comes to that of then."""

    def __init__(self, folder: Path, then: list[ScoredEpoch]) -> None:
        super().__init__(folder, 1, len(then))
        self.then = {epoch.scorecard.epoch: epoch for epoch in then}

    def began(self, record: TrialRecord) -> None:
        """Says where it goes on, if it was begun before."""
        if record.epochs:
            log.info(f"continues after epoch {record.scorecards[-1].epoch}")

    def scored(self, record: TrialRecord, policy: PolicyConfig) -> None:
        """Says how near the epoch is, and how long the rest will take."""
        last, last_then = record.epochs[-1], max(self.then)
        epoch = last.scorecard.epoch
        then = self.then.get(epoch)
        words = compare(then, last).words if then else "not scored then"
        paces = [scored.seconds for scored in record.epochs]
        left = sum(paces) / len(paces) * sum(number > epoch for number in self.then)
        log.info(f"epoch {epoch:2}/{last_then}  {words}  about {duration(left)} left")

    def ended(self, record: TrialRecord) -> None:
        """Nothing: the verdict is the end."""


def retrain(
    original: Original, config: SweepConfig, context: StudyContext, mirror: MlflowMirror
) -> TrialRecord:
    """Trains and scores up to the original's last scored epoch; where it was left, it goes on.

    Args:
        context: base, data set and scorer of these settings.

    Raises:
        KeyboardInterrupt: it was asked to leave; the same again goes on.
        TrainingError: it failed.
    """
    last = original.epochs[-1].scorecard.epoch
    kept = {key: value for key, value in original.tags.items() if key in CARRIED}
    above = {MLFLOW_PARENT_RUN_ID: original.parent} if original.parent else {}
    settings = asdict(config)
    with _folder(Path(config.study.root) / PLACE, original.file_name, settings) as folder:
        record = TrialRecord(
            folder=folder,
            study=original.study,
            number=original.number,
            settings=settings,
            overrides=[],
            params={"again": original.id},
            tags={**origin(context), **kept, **above, REPRODUCTION_OF: original.id},
        )
        if begun := resume_record(folder, {}):
            record = begun
        trial = Trial(
            config=config,
            context=context,
            record=record,
            mirror=mirror,
            progress=Comparing(folder, original.epochs),
            rules=[] if original.complete else [until(last)],
        )
        with graceful_stop(folder):
            run_trials([trial], 1)
            if leaving() and not record.finished:
                mirror.catch_up()
                raise KeyboardInterrupt
    if record.state == FAILED:
        raise TrainingError(f"training it again failed: {record.reason}")
    return record


@contextmanager
def _folder(place: Path, name: str, settings: dict[str, object]) -> Iterator[Path]:
    """A folder that no other process is at: of the same that was left unfinished, or a new one."""
    for number in count():
        folder = closed(place / f"{name}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "reproduction.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            record = resume_record(folder, {})
            if record is None or (not record.finished and record.settings == settings):
                yield folder
                return
        finally:
            lock.release()
