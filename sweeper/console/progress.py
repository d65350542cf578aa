"""The lines on the terminal while a study runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from evaluate.config import PolicyConfig
from evaluate.console.progress import duration
from evaluate.scorecard import usable
from evaluate.selection.policy import select
from sweeper.tracking.trial_record import WORKER, TrialRecord, load_records

log = logging.getLogger(__name__)
LINES = logging.getLogger(f"{__name__}.lines")  # those that a display makes superfluous


@dataclass
class Progress:
    """How far a study is.

    Attributes:
        trials: of the study, in all.
        epochs: scored ones that a trial has at most.
    """

    study: Path
    trials: int
    epochs: int

    def began(self, record: TrialRecord) -> None:
        """Says which trial comes, with what."""
        done = len(record.epochs)
        settings = "  ".join(f"{key}={short(value)}" for key, value in record.params.items())
        after = f"  (continues after epoch {record.scorecards[-1].epoch})" if done else ""
        LINES.info(f"trial {record.number}  {settings}{after}")

    def scored(self, record: TrialRecord, policy: PolicyConfig) -> None:
        """Says what the last epoch scored, and how long the study will take."""
        last = record.epochs[-1]
        scores = {name: estimate.value for name, estimate in last.scorecard.scores.items()}
        names = ["prompt_fidelity", "subject_fidelity", *policy.max]
        figures = "  ".join(f"{_word(n)} {scores[n]:.2f}" for n in names if n in scores)
        verdict = f"failed: {last.scorecard.failure}" if last.scorecard.failure else ""
        if usable(record.scorecards):
            best = select(record.scorecards, policy)
            kept = f"best {best.scorecard.epoch}" if best.feasible else "none within the limits"
            verdict = f"{verdict}  {kept}".strip()
        left = duration(time_left(load_records(self.study), self.trials, self.epochs) or 0.0)
        LINES.info(
            f"trial {record.number}  epoch {last.scorecard.epoch:2}/{record.length}  "
            f"{figures}  {verdict}  about {left} left"
        )

    def ended(self, record: TrialRecord) -> None:
        """Says how a trial ended, unless it ran to its end."""
        if record.reason:
            LINES.info(f"trial {record.number}  {record.state}: {record.reason}")


def time_left(begun: list[TrialRecord], trials: int, epochs: int) -> float | None:
    """Seconds, at the pace of the epochs so far; None before the first.

    Args:
        begun: the trials so far.
        trials, epochs: see `Progress`.
    """
    paces = [epoch.seconds for record in begun for epoch in record.epochs]
    if not paces:
        return None
    lengths = [len(record.epochs) for record in begun if record.finished] or [epochs]
    at_work = [record for record in begun if not record.finished]
    running = sum(epochs - len(record.epochs) for record in at_work)
    to_come = max(0, trials - len(begun)) * sum(lengths) / len(lengths)
    workers = len({record.tags.get(WORKER) for record in at_work}) or 1
    return (running + to_come) * sum(paces) / len(paces) / workers


def settings_of(records: list[TrialRecord]) -> list[str]:
    """Each trial's settings in a few words: those in which the trials differ."""
    keys = list(dict.fromkeys(key for record in records for key in record.params))
    if len(records) > 1:
        keys = [key for key in keys if len({str(r.params.get(key)) for r in records}) > 1]
    return [
        ", ".join(f"{k.rsplit('.', 1)[-1]} {short(r.params[k])}" for k in keys if k in r.params)
        for r in records
    ]


def say(line: str) -> None:
    """A line on the terminal."""
    log.info(line)


def short(value: object) -> str:
    """A setting in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _word(score: str) -> str:
    words = {"pose_memorization": "memorized"}
    return words.get(score, score.removesuffix("_fidelity").replace("_", " "))
