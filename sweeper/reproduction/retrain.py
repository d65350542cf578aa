"""Retrains a run: the same loop with the same settings, logged as a new run."""

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
from sweeper.execution.context import StudyContext, origin_tags
from sweeper.execution.early_stopping import stop_after
from sweeper.execution.pack_runner import run_trials
from sweeper.execution.trial import FALLBACKS_TAG, Trial
from sweeper.reproduction.compare import compare
from sweeper.reproduction.original_run import Original
from sweeper.stop_request import graceful_stop, stop_reason
from sweeper.study_folder import checked_folder
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import FAILED, ScoredEpoch, TrialRecord, resume_record
from train.errors import TrainingError

log = logging.getLogger(__name__)
REPRODUCTIONS, REPRODUCTION_OF = "reproductions", "reproduction_of"
COPIED_TAGS = (FALLBACKS_TAG,)  # tags that affect how a run is trained, in addition to its settings


class ComparisonProgress(Progress):
    """Logs a line per epoch: how close it is to the original one."""

    def __init__(self, folder: Path, original: list[ScoredEpoch]) -> None:
        super().__init__(folder, 1, len(original))
        self.original = {epoch.scorecard.epoch: epoch for epoch in original}

    def trial_started(self, record: TrialRecord) -> None:
        """Logs where it continues, if it was started before."""
        if record.epochs:
            log.info(f"continues after epoch {record.scorecards[-1].epoch}")

    def epoch_scored(self, record: TrialRecord, policy: PolicyConfig) -> None:
        """Logs how close the epoch is, and the remaining time."""
        last, last_original = record.epochs[-1], max(self.original)
        epoch = last.scorecard.epoch
        original = self.original.get(epoch)
        summary = compare(original, last).summary if original else "not scored originally"
        seconds = [scored.seconds for scored in record.epochs]
        remaining = sum(seconds) / len(seconds) * sum(number > epoch for number in self.original)
        log.info(f"epoch {epoch:2}/{last_original}  {summary}  about {duration(remaining)} left")

    def trial_ended(self, record: TrialRecord) -> None:
        """Logs nothing: the verdict follows."""


def retrain(
    original: Original, config: SweepConfig, context: StudyContext, mirror: MlflowMirror
) -> TrialRecord:
    """Trains and scores up to the original's last scored epoch. Continues an unfinished attempt.

    Args:
        context: base, data set and scorer of these settings.

    Raises:
        KeyboardInterrupt: a stop was requested; the same call continues.
        TrainingError: the training failed.
    """
    last = original.epochs[-1].scorecard.epoch
    copied = {key: value for key, value in original.tags.items() if key in COPIED_TAGS}
    parent = {MLFLOW_PARENT_RUN_ID: original.parent} if original.parent else {}
    settings = asdict(config)
    with _locked_folder(
        Path(config.study.root) / REPRODUCTIONS, original.file_name, settings
    ) as folder:
        record = TrialRecord(
            folder=folder,
            study=original.study,
            number=original.number,
            settings=settings,
            overrides=[],
            params={"again": original.id},
            tags={**origin_tags(context), **copied, **parent, REPRODUCTION_OF: original.id},
        )
        if resumed := resume_record(folder, {}):
            record = resumed
        trial = Trial(
            config=config,
            context=context,
            record=record,
            mirror=mirror,
            progress=ComparisonProgress(folder, original.epochs),
            rules=[] if original.complete else [stop_after(last)],
        )
        with graceful_stop(folder):
            run_trials([trial], 1)
            if stop_reason() and not record.finished:
                mirror.flush()
                raise KeyboardInterrupt
    if record.state == FAILED:
        raise TrainingError(f"retraining failed: {record.reason}")
    return record


@contextmanager
def _locked_folder(parent: Path, name: str, settings: dict[str, object]) -> Iterator[Path]:
    """Locks and yields a folder: that of an unfinished attempt with the same settings, or a new
    one."""
    for number in count():
        folder = checked_folder(parent / f"{name}-{number}")
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
