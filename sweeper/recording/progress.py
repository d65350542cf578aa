"""The lines on the terminal while a study runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from evaluate.choice.policy import select
from evaluate.config import PolicyConfig
from sweeper.recording.record import WORKER, Record, load_records

log = logging.getLogger(__name__)


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

    def began(self, record: Record) -> None:
        """Says which trial comes, with what."""
        done = len(record.epochs)
        settings = "  ".join(f"{key}={short(value)}" for key, value in record.params.items())
        after = f"  (continues after epoch {record.scorecards[-1].epoch})" if done else ""
        log.info(f"trial {record.number + 1}/{self.trials}  {settings}{after}")

    def scored(self, record: Record, policy: PolicyConfig) -> None:
        """Says what the last epoch scored, and how long the study will take."""
        last = record.epochs[-1]
        scores = {name: estimate.value for name, estimate in last.scorecard.scores.items()}
        names = ["prompt_fidelity", "subject_fidelity", *policy.limits]
        figures = "  ".join(f"{_word(n)} {scores[n]:.2f}" for n in names if n in scores)
        best = select(record.scorecards, policy)
        verdict = f"best {best.scorecard.epoch}" if best.feasible else "none within the limits"
        total = record.settings["training"]["epochs"]
        log.info(
            f"trial {record.number + 1}/{self.trials}  epoch {last.scorecard.epoch:2}/{total}  "
            f"{figures}  {verdict}  {self._left()}"
        )

    def ended(self, record: Record) -> None:
        """Says how a trial ended, unless it ran to its end."""
        if record.reason:
            log.info(f"trial {record.number + 1}/{self.trials}  {record.state}: {record.reason}")

    def _left(self) -> str:
        """An estimate: the epochs to come at the pace of the epochs so far."""
        begun = load_records(self.study)
        scored = [epoch for record in begun for epoch in record.epochs]
        paces = [epoch.seconds for epoch in scored]
        lengths = [len(r.epochs) for r in begun if r.finished] or [self.epochs]
        at_work = [record for record in begun if not record.finished]
        running = sum(self.epochs - len(record.epochs) for record in at_work)
        to_come = max(0, self.trials - len(begun)) * sum(lengths) / len(lengths)
        workers = len({record.tags.get(WORKER) for record in at_work}) or 1
        seconds = (running + to_come) * sum(paces) / len(paces) / workers
        return f"about {duration(seconds)} left"


def say(line: str) -> None:
    """A line on the terminal."""
    log.info(line)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def short(value: object) -> str:
    """A setting in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _word(score: str) -> str:
    words = {"pose_memorization": "memorised"}
    return words.get(score, score.removesuffix("_fidelity").replace("_", " "))
