"""Progress lines on the terminal while a study runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluate.config import PolicyConfig
from evaluate.console.progress import duration
from evaluate.scorecard import usable
from evaluate.selection.explain import describe_exceeded
from evaluate.selection.policy import select
from sweeper.tracking.trial_record import WORKER_TAG, TrialRecord, load_records

log = logging.getLogger(__name__)
LINES_LOG = logging.getLogger(f"{__name__}.lines")  # lines that the live table replaces


@dataclass
class Progress:
    """Logs the progress of a study.

    Attributes:
        trials: total number of trials of the study.
        epochs: maximum number of scored epochs per trial.
    """

    study: Path
    trials: int
    epochs: int

    def trial_started(self, record: TrialRecord) -> None:
        """Logs that a trial starts, with its settings."""
        done = len(record.epochs)
        settings = "  ".join(f"{key}={format_value(value)}" for key, value in record.params.items())
        suffix = f"  (continues after epoch {record.scorecards[-1].epoch})" if done else ""
        LINES_LOG.info(f"trial {record.number}  {settings}{suffix}")

    def epoch_scored(self, record: TrialRecord, policy: PolicyConfig) -> None:
        """Logs the scores of the latest epoch, and the remaining time of the study."""
        last = record.epochs[-1]
        scores = {name: estimate.value for name, estimate in last.scorecard.scores.items()}
        names = ["prompt_fidelity", "subject_fidelity", *policy.max]
        figures = "  ".join(f"{_short_name(n)} {scores[n]:.2f}" for n in names if n in scores)
        verdict = f"failed: {last.scorecard.failure}" if last.scorecard.failure else ""
        if usable(record.scorecards):
            best = select(record.scorecards, policy)
            over = "none within the limits"
            if exceeded := describe_exceeded(best.scorecard, policy):
                over += f"; {best.scorecard.label} is nearest: {exceeded}"
            selected = f"best {best.scorecard.epoch}" if best.feasible else over
            verdict = f"{verdict}  {selected}".strip()
        remaining = duration(
            remaining_seconds(load_records(self.study), self.trials, self.epochs) or 0.0
        )
        LINES_LOG.info(
            f"trial {record.number}  epoch {last.scorecard.epoch:2}/{record.total_epochs}  "
            f"{figures}  {verdict}  about {remaining} left"
        )

    def trial_ended(self, record: TrialRecord) -> None:
        """Logs how a trial ended, unless it was complete."""
        if record.reason:
            LINES_LOG.info(f"trial {record.number}  {record.state}: {record.reason}")


def remaining_seconds(records: list[TrialRecord], trials: int, epochs: int) -> float | None:
    """Estimated remaining seconds of a study; None before its first epoch.

    Args:
        records: the trials so far.
        trials, epochs: see `Progress`.
    """
    seconds = [epoch.seconds for record in records for epoch in record.epochs]
    if not seconds:
        return None
    lengths = [len(record.epochs) for record in records if record.finished] or [epochs]
    unfinished = [record for record in records if not record.finished]
    epochs_running = sum(epochs - len(record.epochs) for record in unfinished)
    epochs_to_come = max(0, trials - len(records)) * sum(lengths) / len(lengths)
    workers = len({record.tags.get(WORKER_TAG) for record in unfinished}) or 1
    return (epochs_running + epochs_to_come) * sum(seconds) / len(seconds) / workers


def varied_keys(trials: Sequence[Mapping[str, object]]) -> list[str]:
    """The names of the settings in which trials differ, given each trial's settings."""
    keys = dict.fromkeys(key for settings in trials for key in settings)
    return [key for key in keys if len({str(settings.get(key)) for settings in trials}) > 1]


def varied_settings(records: list[TrialRecord]) -> list[str]:
    """For each trial, the settings in which the trials differ, as text; all of a single trial."""
    params = [record.params for record in records]
    keys = list(params[0]) if len(params) == 1 else varied_keys(params)
    return [
        ", ".join(
            f"{k.rsplit('.', 1)[-1]} {format_value(r.params[k])}" for k in keys if k in r.params
        )
        for r in records
    ]


def log_line(line: str) -> None:
    """Prints a line on the terminal."""
    log.info(line)


def format_value(value: object) -> str:
    """A setting's value as short text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short_name(score: str) -> str:
    short_names = {"pose_memorization": "memorized"}
    return short_names.get(score, score.removesuffix("_fidelity").replace("_", " "))
