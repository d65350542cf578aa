"""The course of a training: its batches, steps, epochs and checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

from train.config.schema import TrainingConfig, TrialConfig
from train.data.batching import Batches, frames_of, plan_batches
from train.data.dataset import Dataset
from train.data.folders.wording import counted

CHECKPOINTS = 5  # at least, where nothing is said


@dataclass(frozen=True)
class TrainingSchedule:
    """How long a training is, and when it saves.

    Attributes:
        plan: the batches of an epoch, over all processes.
        accumulation: batches to one step of the optimizer.
        steps: of the optimizer, in all.
        save_every: epochs from one checkpoint to the next.
    """

    plan: Batches
    accumulation: int
    epochs: int
    steps: int
    save_every: int

    @property
    def batches(self) -> int:
        """Of a whole epoch; the last of each bucket may be smaller."""
        return len(self.plan)

    @property
    def global_batch_size(self) -> int:
        """Pictures of a full batch."""
        return self.plan.batch_size

    @property
    def steps_an_epoch(self) -> int:
        """The last step of an epoch may have fewer batches."""
        return math.ceil(self.batches / self.accumulation)

    def batches_in_epoch(self, epoch: int) -> int:
        """Batches of the epoch after so many; the very last one may end early."""
        left = self.steps - epoch * self.steps_an_epoch
        return min(self.batches, left * self.accumulation)

    def steps_until(self, epoch: int) -> int:
        """Steps of the optimizer until this epoch's end."""
        return min(self.steps, epoch * self.steps_an_epoch)

    def saves_after(self, epoch: int) -> bool:
        """Whether there is a checkpoint of this epoch."""
        return epoch % self.save_every == 0 or epoch == self.epochs

    @property
    def checkpoints(self) -> int:
        """How many are saved."""
        return math.ceil(self.epochs / self.save_every)

    def rows_of(self, batch: int) -> int:
        """Pictures of a batch, counted from 0 within its epoch."""
        size, first = self.plan.sequence[batch]
        return min(self.global_batch_size, len(self.plan.buckets[size]) - first)

    def pictures_of(self, epoch: int) -> int:
        """How many pictures, repeats counted, are shown in the epoch after so many."""
        return sum(map(self.rows_of, range(self.batches_in_epoch(epoch))))

    def batches_for(self, shown: int) -> int:
        """How many batches of an epoch show at least so many pictures."""
        behind = accumulate(map(self.rows_of, range(self.batches)))
        return sum(pictures < shown for pictures in behind) + (shown > 0)

    def rows_of_step(self, batch: int, batches: int) -> int:
        """Pictures of the optimizer's step that a batch belongs to.

        Args:
            batches: of the running epoch.
        """
        first = batch // self.accumulation * self.accumulation
        return sum(map(self.rows_of, range(first, min(first + self.accumulation, batches))))

    def describe(self, training: TrainingConfig, processes: int) -> str:
        """The effective batch, the steps and the checkpoints, in words."""
        factors = [f"batch_size {training.batch_size}"]
        if self.accumulation > 1:
            factors.append(f"{self.accumulation} accumulated")
        if processes > 1:
            factors.append(f"{processes} processes")
        often = "epoch" if self.save_every == 1 else counted(self.save_every, "epoch")
        effective = self.global_batch_size * self.accumulation
        return (
            f"effective batch {effective} ({' x '.join(factors)}); "
            f"{counted(self.steps_an_epoch, 'step')} an epoch, {counted(self.epochs, 'epoch')}, "
            f"{counted(self.steps, 'step')}; a checkpoint every {often}, "
            f"{self.checkpoints} in all"
        )


def report(config: TrialConfig, pictures: Dataset, processes: int = 1) -> str:
    """What a trial is made of and how long it takes, to be said before its base is loaded.

    Raises:
        DataError: a picture that is too small for a bucket.
    """
    course = schedule_of(config, pictures, processes)
    return pictures.report(config, course.describe(config.training, processes))


def schedule_of(config: TrialConfig, pictures: Dataset, processes: int = 1) -> TrainingSchedule:
    """The course of a trial on these pictures, with so many processes.

    `training.max_steps` stands in place of `epochs`, as kohya's max_train_steps: there are as
    many epochs as it takes, and the last ends early.

    Raises:
        DataError: a picture that is too small for a bucket.
    """
    training = config.training
    frames = frames_of(pictures.trained, config.data)
    plan = plan_batches(pictures.trained, frames, training.batch_size * processes)
    steps_an_epoch = math.ceil(len(plan) / training.gradient_accumulation)
    epochs = training.epochs
    if training.max_steps is not None:
        epochs = math.ceil(training.max_steps / steps_an_epoch)
    return TrainingSchedule(
        plan=plan,
        accumulation=training.gradient_accumulation,
        epochs=epochs,
        steps=training.max_steps or epochs * steps_an_epoch,
        save_every=training.save_every or max(1, epochs // CHECKPOINTS),
    )
