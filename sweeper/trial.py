"""The way of a trial: train an epoch, score it, record it, stop where going on is no use."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field

from evaluate.choice.policy import select
from evaluate.scorecard import Scorecard
from sweeper.config import SweepConfig, trial_of
from sweeper.parts import Parts
from sweeper.progress import Progress
from sweeper.record import COMPLETE, FAILED, INTERRUPTED, RUNNING, STOPPED, Record
from sweeper.rules import Rule
from sweeper.tracker import Tracker
from train.trainer import Checkpoint, Epoch, Member, Trainer


@dataclass
class Trial:
    """A trial at work.

    Attributes:
        rules: reasons to stop early.
    """

    config: SweepConfig
    record: Record
    tracker: Tracker
    progress: Progress
    rules: list[Rule] = field(default_factory=list)

    def begin(self) -> None:
        self.record.state = RUNNING
        self.record.save()
        self.progress.began(self.record)
        self.tracker.mirror(self.record, self.config.policy)

    def log(
        self, epoch: Epoch, checkpoint: Checkpoint, scorecard: Scorecard, parts: Parts, spent: float
    ) -> None:
        """Records a scored checkpoint: on disk first, then in MLflow, then on the terminal."""
        share = len(epoch.checkpoints)
        seconds = (epoch.seconds / share, spent / share)
        self.record.add(scorecard, checkpoint, parts.scorer.sheet(scorecard), seconds)
        self.tracker.mirror(self.record, self.config.policy)
        self.progress.scored(self.record, self.config.policy)

    def should_stop(self) -> bool:
        """Asks all the rules, so that each sees every epoch."""
        reasons = [reason for rule in self.rules if (reason := rule(self.record.scorecards))]
        self.record.reason = "; ".join(reasons)
        return bool(reasons)

    def select(self) -> None:
        """Over all its epochs, the one to keep. A trial that was stopped is as good as any."""
        if not self.record.epochs:
            return self.fail(self.record.reason or "it ended without a scored epoch")
        best = select(self.record.scorecards, self.config.policy)
        state = STOPPED if self.record.reason else COMPLETE
        return self._end(state, self.record.reason, best.scorecard.epoch)

    def fail(self, reason: str) -> None:
        self._end(FAILED, reason)

    def interrupt(self) -> None:
        """Leaves it so that the same command continues it."""
        self.record.end(INTERRUPTED)
        self.tracker.mirror(self.record, self.config.policy)

    def _end(self, state: str, reason: str, selected: int | None = None) -> None:
        self.record.end(state, reason, selected)
        self.tracker.mirror(self.record, self.config.policy)
        self.progress.ended(self.record)


def run_pack(trials: list[Trial], parts: Parts) -> None:
    """Trains and scores a pack of trials; a single trial is a pack of one.

    What is recorded already (the trials continue) is neither trained nor scored again.
    """
    for trial in trials:
        trial.begin()
    members = [Member(trial_of(trial.config), trial.record.folder) for trial in trials]
    trainer = Trainer(parts.base, parts.pictures, members)
    for epoch in trainer:  # trains, saves, yields what it saved
        began = time.perf_counter()
        new = [c for c in epoch.checkpoints if not trials[c.member].record.has(c.epoch)]
        scorecards = parts.scorer({c.path: c.epoch for c in new}) if new else []
        spent = time.perf_counter() - began
        for checkpoint, scorecard in zip(new, scorecards, strict=True):
            trials[checkpoint.member].log(epoch, checkpoint, scorecard, parts, spent)
        for checkpoint in epoch.checkpoints:
            if trials[checkpoint.member].should_stop():  # memorised, or behind the others
                trainer.stop(checkpoint.member)
        for member, reason in epoch.failures.items():
            trials[member].record.reason = reason
    for trial in trials:
        trial.select()


def cause(error: Exception) -> str:
    """An exception in one line: its first line, or its type where it has no words."""
    words = str(error).strip().splitlines()
    return words[0][:300] if words else type(error).__name__


def keep_traceback(record: Record, error: Exception) -> None:
    """The whole story of a failure, for whoever looks into the trial's folder."""
    text = "".join(traceback.format_exception(error))
    (record.folder / "error.txt").write_text(text, encoding="utf-8")
