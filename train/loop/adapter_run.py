"""One trial in training: its weights, optimizer, schedule, random stream, position and files."""

from __future__ import annotations

import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.cache.latent_cache import EncodedDataset
from train.config.schema import TrialConfig, settings_of
from train.data.dataset import Dataset
from train.data.images.buckets import Size
from train.data.shuffling import shuffled
from train.errors import TrainingError
from train.loop.file_metadata import metadata
from train.loop.loss import row_weights
from train.loop.nan_check import (
    MAX_SHOWN_LOSSES,
    NAN_CHECK_EVERY,
    first_not_finite,
    not_finite_message,
)
from train.loop.optimizers import make_optimizer, make_scheduler, swapped_to_averaged_weights
from train.loop.random_draws import MicroBatch
from train.loop.schedule import schedule_of
from train.loop.trial_spec import Checkpoint, TrialSpec
from train.loop.weight_average import WeightAverage
from train.lora import checkpoint
from train.lora.batched import Dropout
from train.models.base_model import DTYPES, BaseModel
from train.resume.last_checkpoint import last_checkpoint
from train.resume.resume_state import (
    StateError,
    check_parts,
    errors_as_damage,
    read_state,
    write_state,
)
from train.resume.run_files import state_file
from train.resume.run_identity import identity, identity_of, migrated_identity
from train.system.distributed import SINGLE_PROCESS, ProcessGroup
from train.system.oom import apply_fallbacks

log = logging.getLogger(__name__)
OTHER_SETTINGS = "holds a run of other settings; choose another"


class AdapterRun:
    """A trial in training. Continues the run whose state is in the trial's folder.

    Attributes:
        epoch: number of completed epochs.
        batch: number of completed batches in the running epoch.
        losses: of each batch since the last checkpoint.
        recent: the last losses before that checkpoint.
        skipped: steps skipped because a gradient overflowed fp16.
        failure: why training cannot continue; empty if it can.
    """

    def __init__(
        self,
        index: int,
        spec: TrialSpec,
        base: BaseModel,
        dataset: Dataset,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.index, self.original_config = index, spec.config
        self.folder, self.name = spec.folder, spec.name
        self.base, self.dataset, self.processes = base, dataset, processes
        file = state_file(self.folder, self.name)
        try:
            count = base.adapters.parameter_count(self.original_config.network)
            self._prepare(read_state(file, base.device, count), spec.fallbacks)
        except StateError as damage:
            self._prepare(None, spec.fallbacks)
            self._continue_without_state(f"{file} is damaged ({damage})")

    def _prepare(self, state: dict[str, Any] | None, fallbacks: tuple[str, ...]) -> None:
        """Sets up the run at its beginning, or at the position of a state.

        Raises:
            TrainingError: the state belongs to other settings.
            StateError: it cannot be restored.
        """
        if state and migrated_identity(state["config"]) != self._identity(self.original_config):
            raise TrainingError(f"{self.folder} {OTHER_SETTINGS}")
        self.fallbacks = max(tuple(state["remedies"]) if state else (), fallbacks, key=len)
        self.config = apply_fallbacks(self.original_config, self.fallbacks)
        self.schedule = schedule_of(self.config, self.dataset, self.processes.count)
        self.epoch = self.batch = self.skipped = 0
        self.failure, self._state_at = "", time.monotonic()
        self.losses: list[Tensor] = []
        self.recent: list[Tensor] = []
        self.order: dict[Size, list[int]] = {}
        self.random = torch.Generator().manual_seed(self.config.training.seed)
        adapter = self.base.adapters.create(self.config.network, self.random)
        self.adapter = adapter.to(self.base.device)
        self.optimizer = make_optimizer(self.config, self.adapter)
        self.scheduler = make_scheduler(self.config.scheduler, self.optimizer, self.schedule)
        width = self.config.training.ema
        self.average = WeightAverage(self.adapter, width) if width else None
        half = self.base.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.base.device.type) if half else None
        self.last: dict[str, Any] | None = None  # fields of the last checkpoint
        if state:
            with errors_as_damage():
                self._restore(state)

    def start_epoch(self) -> None:
        """Samples the order of the images, unless the epoch had begun before an interruption."""
        if not self.batch:
            self.order = shuffled(self.schedule.plan, self.random)

    def sample(self, step: int, data: EncodedDataset) -> MicroBatch:
        """Samples the latents, noise, timesteps and captions of one batch."""
        training, random = self.config.training, self.random
        rows = self.schedule.plan.images(step, self.order)
        mean, std = data.latents_of(rows, random)
        noise, spread = torch.randn((2, *mean.shape), generator=random)
        count = self.base.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(count, (len(rows),), generator=random)
        captions = data.sample_captions(rows, training.caption_dropout, random)
        rate = self.config.network.dropout
        seed = int(torch.randint(2**31, (), generator=random)) if rate else 0
        if training.noise_offset:
            shift = torch.randn((*noise.shape[:2], 1, 1), generator=random)
            noise = noise + training.noise_offset * shift
        weights = row_weights(self.base, training, timesteps, data.prior[rows])
        latents = mean + std * spread
        return MicroBatch(latents, noise, timesteps, data.sizes[rows], weights, captions,
                    Dropout(rate, seed))  # fmt: skip

    @property
    def batches(self) -> int:
        """Number of batches in the running epoch."""
        return self.schedule.batches_in_epoch(self.epoch)

    @property
    def in_epoch(self) -> bool:
        """Whether batches of the running epoch are left."""
        return self.batch < self.batches and not self.failure

    @property
    def between_steps(self) -> bool:
        """Whether no gradient is being accumulated, so that a state can be saved."""
        return self.batch % self.schedule.accumulation == 0 or self.batch >= self.batches

    def scaled_loss(self, weighted: Tensor, step: int) -> Tensor:
        """The rows' share of the mean over the optimizer's step, scaled for fp16.

        Args:
            weighted: the sum of the losses of a batch's rows.
        """
        objective = weighted / self.schedule.rows_of_step(step, self.batches)
        return objective if self.scaler is None else self.scaler.scale(objective)

    def finish_batch(self, step: int, weighted: Tensor) -> None:
        """Records the loss, and steps the optimizer at the end of a group of batches.

        Args:
            weighted: the sum of the losses of the batch's rows, over all processes.
        """
        self.losses.append(weighted / self.schedule.rows_of(step))
        self.batch = step + 1
        if self.base.device.type == "cpu" or len(self.losses) % NAN_CHECK_EVERY == 0:
            self.failure = self._failure()
        if self.between_steps and not self.failure:
            self._step()

    def _step(self) -> None:
        training, before = self.config.training, self.scaler and self.scaler.get_scale()
        for flat in self.adapter.parameters():
            if self.processes.count > 1 and len(flat):
                gradient = torch.zeros_like(flat) if flat.grad is None else flat.grad
                flat.grad = self.processes.sum(gradient)
        self.adapter.assign_gradients()
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), training.max_grad_norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.scaler and self.scaler.get_scale() < (before or 0):
            self.skipped += 1
        else:
            self.scheduler.step()
            if self.average:
                self.average.update(self.adapter)
        self.adapter.zero_grad(set_to_none=True)

    def _failure(self) -> str:
        """Why training cannot continue, as a loss is not finite; empty if all are."""
        first = first_not_finite(self.losses)
        if first is None:
            return ""
        return not_finite_message(
            epoch=self.epoch + 1,
            batch=self.batch - (len(self.losses) - 1 - first),
            batches=self.batches,
            losses_before=[float(loss) for loss in [*self.recent, *self.losses[:first]]],
            learning_rate=self.optimizer.param_groups[0]["lr"],
            untrained_batches=self.schedule.accumulation if self.epoch == 0 else 0,
            fp16=self.base.dtype == torch.float16,
        )

    def finish_epoch(self) -> str:
        """Moves on by an epoch; returns the failure if a loss is not finite, else an empty text."""
        self.failure = self.failure or self._failure()
        if not self.failure:
            self.epoch, self.batch = self.epoch + 1, 0
        return self.failure

    @property
    def checkpoint_due(self) -> bool:
        """Whether the completed epoch has a checkpoint."""
        return self.schedule.saves_after(self.epoch)

    @property
    def finished(self) -> bool:
        return self.epoch == self.schedule.epochs

    def save(self) -> Checkpoint:
        """Writes the LoRA file, then the state to continue from.

        Raises:
            NonFiniteError: the weights are not finite, in any of the processes.
            CheckpointError: the file cannot be written.
        """
        file_metadata = metadata(
            self.config, self.name, self.base, self.dataset, self.schedule, self.epoch
        )
        precision = DTYPES[self.config.training.save_precision]
        self._record_checkpoint(self.last["epoch"] if self.last else 0)
        saved = self.last_saved()
        averaged = (
            self.average.swapped_into(self.adapter)
            if self.average
            else swapped_to_averaged_weights(self.optimizer, self.adapter)
        )
        with averaged:
            checkpoint.check_finite(self.adapter, precision)
            if self.processes.main:
                checkpoint.save_checkpoint(saved.path, self.adapter, file_metadata, precision)
        self.recent, self.losses = self.losses[-MAX_SHOWN_LOSSES:], []
        self.save_state()
        self._delete_old()
        return saved

    def _record_checkpoint(self, before: int) -> None:
        """Records the checkpoint of this epoch; `before` is the epoch of the previous one."""
        # Prodigy and its like multiply lr by the step size d that they estimate
        rates = [group["lr"] * float(group.get("d", 1.0)) for group in self.optimizer.param_groups]
        self.last = {
            "epoch": self.epoch,
            "train_loss": float(torch.stack(self.losses).mean()) if self.losses else math.nan,
            "lr": rates[0],
            "lr_text_encoder": rates[1] if len(rates) > 1 else None,
            "pictures": sum(map(self.schedule.images_of, range(before, self.epoch))),
        }

    def last_saved(self) -> Checkpoint:
        """The last checkpoint, from which an interrupted run continues."""
        assert self.last is not None
        return Checkpoint(
            index=self.index,
            path=self._file(self.last["epoch"]),
            last=self.last["epoch"] == self.schedule.epochs,
            **self.last,
        )

    def _file(self, epoch: int) -> Path:
        # kohya's names: intermediate epochs are numbered, the last one is not
        last = epoch == self.schedule.epochs
        name = self.name if last else f"{self.name}-{epoch:06d}"
        return self.folder / f"{name}.safetensors"

    def _delete_old(self) -> None:
        """Keeps only the last `save_last` of the numbered files."""
        keep = self.config.training.save_last
        if keep is None or self.finished or not self.processes.main:
            return
        saved = [epoch for epoch in range(1, self.epoch + 1) if self.schedule.saves_after(epoch)]
        for epoch in saved[:-keep]:
            self._file(epoch).unlink(missing_ok=True)

    def save_state_if_due(self) -> None:
        """Writes the state within an epoch, every `resume_save_minutes`."""
        minutes = (time.monotonic() - self._state_at) / 60
        if (
            minutes >= self.config.training.resume_save_minutes
            and self.between_steps
            and self.in_epoch
        ):
            self.save_state()

    def save_state(self) -> None:
        """Writes everything that a run needs to continue to the same bytes, unless it failed."""
        self._state_at = time.monotonic()
        self.failure = self.failure or self._failure()
        if self.failure or not self.processes.main:
            return
        state = {
            "config": self._identity(self.original_config),
            "remedies": list(self.fallbacks),
            "epoch": self.epoch,
            "shown": sum(map(self.schedule.rows_of, range(self.batch))),
            "order": self.order,
            "losses": torch.stack(self.losses) if self.losses else torch.empty(0),
            "last": self.last,
            "skipped": self.skipped,
            "adapter": self.adapter.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "kind": self.config.optimizer["_target_"],
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "random": self.random.get_state(),
        }
        write_state(state_file(self.folder, self.name), state)

    def _restore(self, state: dict[str, Any]) -> None:
        kind = self.config.optimizer["_target_"]
        check_parts(state, self.scheduler, self.optimizer, kind, self.schedule.epochs)
        self.adapter.load_state_dict(state["adapter"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if state["kind"] == kind:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.random.set_state(state["random"].cpu())
        self.epoch, self.order, self.last = state["epoch"], state["order"], state["last"]
        self.batch = min(self.batches, self.schedule.batches_for(state["shown"]))
        # a fallback may have changed the buckets since
        if self.batch and not self.schedule.plan.matches(self.order):
            self.order = shuffled(self.schedule.plan, self.random)
        self.losses, self.skipped = list(state["losses"].unbind()), state["skipped"]
        within = f", within the next one at batch {self.batch}" if self.batch else ""
        log.info("continuing %s after epoch %d%s", self.folder, self.epoch, within)

    def _continue_without_state(self, damage: str) -> None:
        """Continues after the epoch of the last checkpoint, with a newly initialized optimizer."""
        saved = filter(self.schedule.saves_after, range(1, self.schedule.epochs + 1))
        files = {epoch: self._file(epoch) for epoch in saved}
        last = last_checkpoint(files, self.base.adapters)
        if last is None:
            log.warning(f"{damage}; the run starts over")
            return
        self.epoch, adapter = last
        run = identity_of(files[self.epoch], self.name, self.processes.count)
        if run != self._identity(self.config):
            raise TrainingError(f"{damage}, and {self.folder} {OTHER_SETTINGS}")
        target, source = self.adapter.matrices, adapter.matrices  # in different orders
        for key in target:
            for matrix, trained in zip(target[key], source[key], strict=True):
                matrix.copy_(trained)
        self.random.manual_seed(self.config.training.seed + self.epoch)
        if steps := self.schedule.steps_until(self.epoch):
            self.scheduler.last_epoch = steps - 1
            with warnings.catch_warnings():  # the optimizer has not stepped yet
                warnings.simplefilter("ignore")
                self.scheduler.step()
        self._record_checkpoint(before=0)
        where = f"{self._file(self.epoch).name} (epoch {self.epoch})"
        log.warning(f"{damage}; the run continues from {where}, with a new optimizer state")

    def _identity(self, config: TrialConfig) -> str:
        """Hash that must be equal for a run to be continued."""
        fingerprints = [self.base.fingerprint, self.dataset.fingerprint]
        return identity(settings_of(config), self.name, fingerprints, self.processes.count)
