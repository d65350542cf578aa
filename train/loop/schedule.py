"""The schedule of a training: its batches, steps, epochs and checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

from train.config.schema import TrainingConfig, TrialConfig
from train.data.batching import Batches, crops_of, plan_batches
from train.data.dataset import Dataset
from train.data.folders.wording import count_noun

MIN_CHECKPOINTS = 5  # the least number by default


@dataclass(frozen=True)
class TrainingSchedule:
    """The length of a training, and when it saves.

    Attributes:
        plan: the batches of an epoch, over all processes.
        accumulation: batches per optimizer step.
        steps: total number of optimizer steps.
        save_every: epochs between checkpoints.
    """

    plan: Batches
    accumulation: int
    epochs: int
    steps: int
    save_every: int

    @property
    def batches(self) -> int:
        """Number of batches in a full epoch; the last one of each bucket may be smaller."""
        return len(self.plan)

    @property
    def global_batch_size(self) -> int:
        """Number of images in a full batch."""
        return self.plan.batch_size

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps per epoch; the last one may have fewer batches."""
        return math.ceil(self.batches / self.accumulation)

    def batches_in_epoch(self, epoch: int) -> int:
        """Number of batches in epoch `epoch` (0-based); the final epoch may be shorter."""
        remaining = self.steps - epoch * self.steps_an_epoch
        return min(self.batches, remaining * self.accumulation)

    def steps_until(self, epoch: int) -> int:
        """Optimizer steps up to the end of this many epochs."""
        return min(self.steps, epoch * self.steps_an_epoch)

    def saves_after(self, epoch: int) -> bool:
        """Whether there is a checkpoint after this many epochs."""
        return epoch % self.save_every == 0 or epoch == self.epochs

    @property
    def checkpoints(self) -> int:
        """Number of checkpoints."""
        return math.ceil(self.epochs / self.save_every)

    def rows_of(self, batch: int) -> int:
        """Number of images in a batch, by its 0-based index in the epoch."""
        size, first = self.plan.sequence[batch]
        return min(self.global_batch_size, len(self.plan.buckets[size]) - first)

    def images_of(self, epoch: int) -> int:
        """Number of images, with repeats, in epoch `epoch` (0-based)."""
        return sum(map(self.rows_of, range(self.batches_in_epoch(epoch))))

    def batches_for(self, images: int) -> int:
        """Number of batches of an epoch after which at least `images` images were used."""
        totals = accumulate(map(self.rows_of, range(self.batches)))
        return sum(total < images for total in totals) + (images > 0)

    def rows_of_step(self, batch: int, batches: int) -> int:
        """Number of images in the optimizer step that a batch belongs to.

        Args:
            batches: number of batches in the running epoch.
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
        often = "epoch" if self.save_every == 1 else count_noun(self.save_every, "epoch")
        effective = self.global_batch_size * self.accumulation
        return (
            f"effective batch {effective} ({' x '.join(factors)}); "
            f"{count_noun(self.steps_an_epoch, 'step')} per epoch, "
            f"{count_noun(self.epochs, 'epoch')}, {count_noun(self.steps, 'step')}; a checkpoint "
            f"every {often}, {self.checkpoints} in total"
        )


def training_report(config: TrialConfig, dataset: Dataset, processes: int = 1) -> str:
    """Lines about a trial's images and schedule, before the base is loaded.

    Raises:
        DataError: an image is too small for a bucket.
    """
    schedule = schedule_of(config, dataset, processes)
    return dataset.report(config, schedule.describe(config.training, processes))


def schedule_of(config: TrialConfig, dataset: Dataset, processes: int = 1) -> TrainingSchedule:
    """The schedule of a trial on this dataset, with this number of processes.

    `training.max_steps` replaces `epochs`, like kohya's max_train_steps: there are as many epochs
    as needed, and the final one ends early.

    Raises:
        DataError: an image is too small for a bucket.
    """
    training = config.training
    crops = crops_of(dataset.trained, config.data)
    plan = plan_batches(dataset.trained, crops, training.batch_size * processes)
    steps_an_epoch = math.ceil(len(plan) / training.gradient_accumulation)
    epochs = training.epochs
    if training.max_steps is not None:
        epochs = math.ceil(training.max_steps / steps_an_epoch)
    return TrainingSchedule(
        plan=plan,
        accumulation=training.gradient_accumulation,
        epochs=epochs,
        steps=training.max_steps or epochs * steps_an_epoch,
        save_every=training.save_every or max(1, epochs // MIN_CHECKPOINTS),
    )
