"""A running trial: records its scores, decides when it stops, and ends it."""

from __future__ import annotations

import os
import socket
import traceback
from contextlib import suppress
from dataclasses import dataclass, field

from PIL.Image import Image

from evaluate.scorecard import Scorecard, usable
from evaluate.selection.objective import MEMORY, comparison_value, constraints
from evaluate.selection.policy import select
from sweeper.config import SweepConfig
from sweeper.console.progress import Progress
from sweeper.execution.context import StudyContext
from sweeper.execution.disk import prune_checkpoints
from sweeper.execution.early_stopping import Rule
from sweeper.study.trial_lease import LeasedTrial
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    IN_PROGRESS_FILE,
    INTERRUPTED,
    PACK_TAG,
    RUNNING,
    STOPPED,
    WORKER_TAG,
    Cost,
    TrialRecord,
)
from train.config.parsing import cause
from train.config.schema import TrialConfig, trial_of
from train.errors import CheckpointError
from train.files.atomic_write import write_atomically, write_text_atomically
from train.loop.trainer import Checkpoint, TrialSpec, shared_by_a_pack
from train.system.oom import FALLBACKS, advice, apply_fallbacks, is_oom, with_next_fallback

FALLBACKS_TAG = "adapted"  # tag: the fallbacks that were applied because memory ran out


@dataclass
class Trial:
    """A running trial.

    Attributes:
        context: base, data set and scorer.
        rules: rules that may stop it early.
        lease: the trial in its study, which is told the result; None if it belongs to no study.
        alone: whether it must not share a pack.
    """

    config: SweepConfig
    context: StudyContext
    record: TrialRecord
    mirror: MlflowMirror
    progress: Progress
    rules: list[Rule] = field(default_factory=list)
    lease: LeasedTrial | None = None
    alone: bool = False

    @property
    def lost(self) -> bool:
        """Whether another worker has taken it over."""
        return self.lease is not None and self.lease.lost

    @property
    def kind(self) -> object:
        """A key: trials of a study with equal keys can share a pack."""
        return shared_by_a_pack(self.training_config), self.alone and self.record.number

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The fallbacks that were applied because memory ran out."""
        names = dict.fromkeys(self.record.tags.get(FALLBACKS_TAG, "").split(", "))
        return tuple(name for name in names if name in FALLBACKS)

    @property
    def training_config(self) -> TrialConfig:
        """The effective training settings: the configured ones with the fallbacks applied."""
        return apply_fallbacks(trial_of(self.config), self.fallbacks)

    @property
    def spec(self) -> TrialSpec:
        """The trial as the trainer needs it."""
        return TrialSpec(trial_of(self.config), self.record.folder, fallbacks=self.fallbacks)

    def apply_next_fallback(self) -> bool:
        """Applies the next fallback after an OOM; False if there is none or they are disabled."""
        fallbacks = with_next_fallback(trial_of(self.config), self.fallbacks)
        if fallbacks is None:
            return False
        self.record.tags[FALLBACKS_TAG] = ", ".join(fallbacks)
        self.record.save()
        return True

    def begin(self, pack: int) -> None:
        """Starts or continues the trial.

        Args:
            pack: number of trials that are trained at once.
        """
        write_atomically(self.record.folder / IN_PROGRESS_FILE, b"")
        self.record.state = RUNNING
        self.record.tags |= {
            PACK_TAG: str(pack),
            WORKER_TAG: f"{socket.gethostname()}:{os.getpid()}",
        }
        self.record.save()
        self.progress.trial_started(self.record)
        self.mirror.mirror(self.record, self.config.selection)

    def log(
        self,
        checkpoint: Checkpoint,
        scorecard: Scorecard,
        sheet: Image,
        cost: Cost,
    ) -> None:
        """Records a scored checkpoint: first on disk, then in MLflow, then on the terminal."""
        self.record.add(scorecard, checkpoint, sheet, cost)
        self.mirror.mirror(self.record, self.config.selection)
        self.progress.epoch_scored(self.record, self.config.selection)

    def should_stop(self, last: bool) -> bool:
        """Whether a rule stops the trial, or this is the last epoch. Each rule sees every epoch."""
        reasons = [reason for rule in self.rules if (reason := rule(self.record.scorecards))]
        self.record.reason = "" if last else "; ".join(reasons)
        return last or bool(reasons)

    def select(self) -> None:
        """Selects the checkpoint to keep, over all epochs, and ends the trial."""
        if not self.record.epochs:
            return self._end(FAILED, self.record.reason or "it ended without a scored epoch")
        state = STOPPED if self.record.reason else COMPLETE
        if not usable(self.record.scorecards):
            failure = self.record.scorecards[-1].failure
            reason = self.record.reason or f"no checkpoint can be used: {failure}"
            return self._end(STOPPED, reason)
        best = select(self.record.scorecards, self.config.selection)
        return self._end(state, self.record.reason, best.scorecard.epoch)

    def mark_failed(self, error: BaseException | None) -> None:
        """Marks the trial as failed, and writes the full traceback to its folder.

        Raises:
            OSError, CheckpointError: writing failed, so the trial is only interrupted.
        """
        assert error is not None
        text = "".join(traceback.format_exception(error))
        try:
            write_text_atomically(self.record.folder / "error.txt", text)
            self._end(FAILED, advice(self.training_config) if is_oom(error) else cause(error))
        except Exception:
            self.interrupt()
            raise

    def interrupt(self) -> None:
        """Interrupts the trial so that the same command continues it, even if the disk is full."""
        at_work = self.record.folder / IN_PROGRESS_FILE
        with suppress(OSError, CheckpointError):
            if at_work.is_file():  # it has started and not ended
                at_work.unlink()
                self.record.end(INTERRUPTED)
                self.mirror.mirror(self.record, self.config.selection)
        with suppress(OSError):
            if self.lease:
                self.lease.release()

    def _end(self, state: str, reason: str, selected: int | None = None) -> None:
        self.record.end(state, reason, selected)
        self.mirror.mirror(self.record, self.config.selection)
        self.progress.trial_ended(self.record)
        self._tell()
        (self.record.folder / IN_PROGRESS_FILE).unlink(missing_ok=True)
        prune_checkpoints(self.record, self.config)

    def _tell(self) -> None:
        """Tells the study the objectives and constraints of the selected checkpoint."""
        if self.lease is None:
            return None
        with self.lease:
            if self.record.state == FAILED:
                return self.lease.fail()
            cards = self.record.scorecards
            card = next((card for card in cards if card.epoch == self.record.selected), None)
            violations = constraints(card, self.config.selection)
            if card is None:  # no usable checkpoint: the worst objectives, and infeasible
                return self.lease.complete((0.0, 1.0), violations)
            memory = card.scores[MEMORY].value if MEMORY in card.scores else 0.0
            return self.lease.complete((comparison_value(card), memory), violations)
