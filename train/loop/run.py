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
from train.loop.optimizers import make_optimizer, make_scheduler, swapped_to_averaged_weights
from train.loop.random_draws import MicroBatch
from train.loop.schedule import schedule_of
from train.loop.trial_spec import Checkpoint, TrialSpec
from train.lora import checkpoint
from train.lora.batched import Dropout
from train.models.base_model import DTYPES, BaseModel
from train.resume.last_checkpoint import last_checkpoint
from train.resume.resume_state import StateError, as_damage, check_parts, read_state, write_state
from train.resume.run_files import state_file
from train.resume.run_identity import identity, identity_of, migrated_identity
from train.system.distributed import ALONE, ProcessGroup
from train.system.oom import apply_fallbacks

log = logging.getLogger(__name__)
NAN_CHECK_EVERY = 16  # steps after which a GPU's losses are read, for which it must be waited for
OTHER = "holds a run of other settings; choose another"
SHOWN = 5  # losses in the message of a failure


class AdapterRun:
    """A member in training. Continues the run whose state is in the member's folder.

    Attributes:
        epoch: how many it has behind it in full.
        batch: how many of the running epoch.
        losses: of each batch since the last checkpoint.
        recent: the last of those before it.
        skipped: steps left out because a gradient was too large for fp16.
        failure: why it cannot go on; empty: it can.
    """

    def __init__(
        self,
        index: int,
        member: TrialSpec,
        base: BaseModel,
        pictures: Dataset,
        processes: ProcessGroup = ALONE,
    ) -> None:
        self.index, self.asked = index, member.config
        self.folder, self.name = member.folder, member.name
        self.base, self.pictures, self.processes = base, pictures, processes
        file = state_file(self.folder, self.name)
        try:
            numbers = base.adapters.numbers(self.asked.network)
            self._prepare(read_state(file, base.device, numbers), member.remedies)
        except StateError as damage:
            self._prepare(None, member.remedies)
            self._go_on_without_state(f"{file} is damaged ({damage})")

    def _prepare(self, state: dict[str, Any] | None, remedies: tuple[str, ...]) -> None:
        """The run at its beginning, or where a state has it.

        Raises:
            TrainingError: the state is one of other settings.
            StateError: it cannot be continued from.
        """
        if state and migrated_identity(state["config"]) != self._identity(self.asked):
            raise TrainingError(f"{self.folder} {OTHER}")
        self.remedies = max(tuple(state["remedies"]) if state else (), remedies, key=len)
        self.config = apply_fallbacks(self.asked, self.remedies)
        self.course = schedule_of(self.config, self.pictures, self.processes.count)
        self.epoch = self.batch = self.skipped = 0
        self.failure, self._state_at = "", time.monotonic()
        self.losses: list[Tensor] = []
        self.recent: list[Tensor] = []
        self.order: dict[Size, list[int]] = {}
        self.random = torch.Generator().manual_seed(self.config.training.seed)
        adapter = self.base.adapters.create(self.config.network, self.random)
        self.adapter = adapter.to(self.base.device)
        self.optimizer = make_optimizer(self.config, self.adapter)
        self.scheduler = make_scheduler(self.config.scheduler, self.optimizer, self.course)
        half = self.base.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.base.device.type) if half else None
        self.last: dict[str, Any] | None = None  # what is known of the last checkpoint
        if state:
            with as_damage():
                self._restore(state)

    def start_epoch(self) -> None:
        """Draws the order of the pictures, unless the epoch had begun before an interruption."""
        if not self.batch:
            self.order = shuffled(self.course.plan, self.random)

    def draw(self, step: int, data: EncodedDataset) -> MicroBatch:
        """The pictures of one batch, latents sampled, with noise and timesteps."""
        training, random = self.config.training, self.random
        shown = self.course.plan.pictures(step, self.order)
        mean, std = data.latents_of(shown, random)
        noise, spread = torch.randn((2, *mean.shape), generator=random)
        count = self.base.noise.config.num_train_timesteps
        timesteps = torch.randint(count, (len(shown),), generator=random)
        captions = data.sample_captions(shown, training.caption_dropout, random)
        rate = self.config.network.dropout
        seed = int(torch.randint(2**31, (), generator=random)) if rate else 0
        if training.noise_offset:
            shift = torch.randn((*noise.shape[:2], 1, 1), generator=random)
            noise = noise + training.noise_offset * shift
        weights = row_weights(self.base, training, timesteps, data.prior[shown])
        latents = mean + std * spread
        return MicroBatch(latents, noise, timesteps, data.sizes[shown], weights, captions,
                    Dropout(rate, seed))  # fmt: skip

    @property
    def batches(self) -> int:
        """Of the running epoch."""
        return self.course.batches_in_epoch(self.epoch)

    @property
    def in_epoch(self) -> bool:
        """Whether there is more to do in the running epoch."""
        return self.batch < self.batches and not self.failure

    @property
    def between_steps(self) -> bool:
        """Whether no gradient waits for more batches: only then can a state be saved."""
        return self.batch % self.course.accumulation == 0 or self.batch >= self.batches

    def scaled_loss(self, weighted: Tensor, step: int) -> Tensor:
        """What the gradient is of: the rows' part in the mean over the optimizer's step.

        Args:
            weighted: the sum of the losses of a batch's rows.
        """
        objective = weighted / self.course.rows_of_step(step, self.batches)
        return objective if self.scaler is None else self.scaler.scale(objective)

    def finish_batch(self, step: int, weighted: Tensor) -> None:
        """Notes the loss, and steps the optimizer at the end of a group of batches.

        Args:
            weighted: the sum of the losses of the batch's rows, over all processes.
        """
        self.losses.append(weighted / self.course.rows_of(step))
        self.batch = step + 1
        if self.base.device.type == "cpu" or len(self.losses) % NAN_CHECK_EVERY == 0:
            self.failure = self._failure()
        if self.between_steps and not self.failure:
            self._step()

    def _step(self) -> None:
        training, before = self.config.training, self.scaler and self.scaler.get_scale()
        for flat in self.adapter.parameters():
            if self.processes.count > 1 and len(flat):
                own = torch.zeros_like(flat) if flat.grad is None else flat.grad
                flat.grad = self.processes.sum(own)
        self.adapter.share_gradients()
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
        self.adapter.zero_grad(set_to_none=True)

    def _failure(self) -> str:
        """Why it cannot go on: the first loss that is no number; empty: there is none."""
        if not self.losses or math.isfinite(
            float(torch.stack(self.losses[-NAN_CHECK_EVERY:]).sum())
        ):
            return ""
        losses = torch.stack(self.losses).tolist()
        first = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if first is None:
            return ""
        batch = self.batch - (len(losses) - 1 - first)
        rate = self.optimizer.param_groups[0]["lr"]
        if self.epoch == 0 and batch <= self.course.accumulation:
            cause = "the base or a picture, since nothing is trained yet"
        else:
            cause = f"a learning rate that is too high ({rate:g})"
        if self.base.dtype == torch.float16:
            cause += ", or numbers too large for fp16 (bf16 and fp32 have room for them)"
        known = [float(loss) for loss in self.recent[-SHOWN:]] + losses[:first]
        before = ", ".join(f"{loss:.4g}" for loss in known[-SHOWN:])
        return (
            f"the loss is not a number any more in epoch {self.epoch + 1}, at batch {batch} of "
            f"{self.batches} (before it: {before or 'nothing'}); the likely cause is {cause}"
        )

    def finish_epoch(self) -> str:
        """Moves on by an epoch; the reason to stop where the loss is no longer a number."""
        self.failure = self.failure or self._failure()
        if not self.failure:
            self.epoch, self.batch = self.epoch + 1, 0
        return self.failure

    @property
    def is_due(self) -> bool:
        """Whether the epoch that has just ended is to be saved."""
        return self.course.saves_after(self.epoch)

    @property
    def finished(self) -> bool:
        return self.epoch == self.course.epochs

    def save(self) -> Checkpoint:
        """Writes the LoRA file, then the state to continue from.

        Raises:
            NotFiniteError: the weights are worth no file, in any of the processes.
            CheckpointError: it cannot be written.
        """
        about = metadata(self.config, self.name, self.base, self.pictures, self.course, self.epoch)
        precision = DTYPES[self.config.training.save_precision]
        self._note_checkpoint(self.last["epoch"] if self.last else 0)
        saved = self.last_saved()
        with swapped_to_averaged_weights(self.optimizer, self.adapter):
            checkpoint.check_finite(self.adapter, precision)
            if self.processes.main:
                checkpoint.save_checkpoint(saved.path, self.adapter, about, precision)
        self.recent, self.losses = self.losses[-SHOWN:], []
        self.save_state()
        self._delete_old()
        return saved

    def _note_checkpoint(self, before: int) -> None:
        """What is known of the one of this epoch; `before` is the epoch of the one before."""
        # Prodigy and its like multiply lr by the step size d that they find
        rates = [group["lr"] * float(group.get("d", 1.0)) for group in self.optimizer.param_groups]
        self.last = {
            "epoch": self.epoch,
            "train_loss": float(torch.stack(self.losses).mean()) if self.losses else math.nan,
            "lr": rates[0],
            "lr_text_encoder": rates[1] if len(rates) > 1 else None,
            "pictures": sum(map(self.course.pictures_of, range(before, self.epoch))),
        }

    def last_saved(self) -> Checkpoint:
        """The last checkpoint, which a continued run goes on from."""
        assert self.last is not None
        return Checkpoint(
            member=self.index,
            path=self._file(self.last["epoch"]),
            last=self.last["epoch"] == self.course.epochs,
            **self.last,
        )

    def _file(self, epoch: int) -> Path:
        # kohya's names: the epochs in between are numbered, the last is not
        last = epoch == self.course.epochs
        name = self.name if last else f"{self.name}-{epoch:06d}"
        return self.folder / f"{name}.safetensors"

    def _delete_old(self) -> None:
        """Leaves the last `save_last` of the numbered files."""
        keep = self.config.training.save_last
        if keep is None or self.finished or not self.processes.main:
            return
        saved = [epoch for epoch in range(1, self.epoch + 1) if self.course.saves_after(epoch)]
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
        """Writes all that a run needs to go on to the same bytes, unless it is broken."""
        self._state_at = time.monotonic()
        self.failure = self.failure or self._failure()
        if self.failure or not self.processes.main:
            return
        state = {
            "config": self._identity(self.asked),
            "remedies": list(self.remedies),
            "epoch": self.epoch,
            "shown": sum(map(self.course.rows_of, range(self.batch))),
            "order": self.order,
            "losses": torch.stack(self.losses) if self.losses else torch.empty(0),
            "last": self.last,
            "skipped": self.skipped,
            "adapter": self.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kind": self.config.optimizer["_target_"],
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "random": self.random.get_state(),
        }
        write_state(state_file(self.folder, self.name), state)

    def _restore(self, state: dict[str, Any]) -> None:
        kind = self.config.optimizer["_target_"]
        check_parts(state, self.scheduler, self.optimizer, kind, self.course.epochs)
        self.adapter.load_state_dict(state["adapter"])
        if state["kind"] == kind:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.random.set_state(state["random"].cpu())
        self.epoch, self.order, self.last = state["epoch"], state["order"], state["last"]
        self.batch = min(self.batches, self.course.batches_for(state["shown"]))
        if self.batch and not self.course.plan.has(self.order):  # smaller pictures since then
            self.order = shuffled(self.course.plan, self.random)
        self.losses, self.skipped = list(state["losses"].unbind()), state["skipped"]
        within = f", within the next one at batch {self.batch}" if self.batch else ""
        log.info("continuing %s after epoch %d%s", self.folder, self.epoch, within)

    def _go_on_without_state(self, damage: str) -> None:
        """At the end of the epoch of the last checkpoint, with an optimizer that begins anew."""
        saved = filter(self.course.saves_after, range(1, self.course.epochs + 1))
        files = {epoch: self._file(epoch) for epoch in saved}
        found = last_checkpoint(files, self.base.adapters)
        if found is None:
            log.warning(f"{damage}; the run begins anew")
            return
        self.epoch, adapter = found
        run = identity_of(files[self.epoch], self.name, self.processes.count)
        if run != self._identity(self.config):
            raise TrainingError(f"{damage}, and {self.folder} {OTHER}")
        own, its = self.adapter.matrices, adapter.matrices  # in an order of its own
        for key in own:
            for matrix, trained in zip(own[key], its[key], strict=True):
                matrix.copy_(trained)
        self.random.manual_seed(self.config.training.seed + self.epoch)
        if steps := self.course.steps_until(self.epoch):
            self.scheduler.last_epoch = steps - 1
            with warnings.catch_warnings():  # of an optimizer that has not stepped yet
                warnings.simplefilter("ignore")
                self.scheduler.step()
        self._note_checkpoint(before=0)
        where = f"{self._file(self.epoch).name} (epoch {self.epoch})"
        log.warning(f"{damage}; the run goes on from {where}, with an optimizer that begins anew")

    def _identity(self, config: TrialConfig) -> str:
        """A run is continued with the same alone."""
        fingerprints = [self.base.fingerprint, self.pictures.fingerprint]
        return identity(settings_of(config), self.name, fingerprints, self.processes.count)
