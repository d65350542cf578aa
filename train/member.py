"""One trial in training: its weights, optimizer, schedule, random stream, position and files."""

from __future__ import annotations

import io
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from train import checkpoint
from train.base import DTYPES, Base
from train.cache import EncodedPictures
from train.config import TrialConfig
from train.data import Pictures
from train.optimization import make_optimizer, make_scheduler
from train.stack import Dropout

log = logging.getLogger(__name__)
STATE = "state.pt"


class TrainingError(RuntimeError):
    """Training cannot go on; what was saved stays."""


@dataclass(frozen=True)
class Member:
    """One trial of a pack: its settings, and the folder for its checkpoints and its state."""

    config: TrialConfig
    folder: Path


@dataclass(frozen=True)
class Checkpoint:
    """One saved LoRA file.

    Attributes:
        member: index of the trial in the pack.
        train_loss: mean over the epochs since the checkpoint before.
        lr: of the UNet's LoRA, after the last step.
        pictures: shown to it since the checkpoint before.
        lr_text_encoder: None: it has no LoRA.
    """

    member: int
    path: Path
    epoch: int
    train_loss: float
    lr: float
    last: bool
    pictures: int = 0
    lr_text_encoder: float | None = None


@dataclass(frozen=True)
class Draw:
    """The random choices for one member's part of a batch, on the CPU.

    Attributes:
        captions: indices of the encoded captions.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: Tensor
    dropout: Dropout


class Run:
    """A member in training. Continues the run whose state is in the member's folder."""

    def __init__(self, index: int, member: Member, base: Base, pictures: Pictures) -> None:
        self.index, self.config, self.folder = index, member.config, member.folder
        self.base, self.pictures = base, pictures
        self.epoch = 0  # of its own, in full
        self.losses: list[Tensor] = []
        self.shown = 0  # pictures since the last checkpoint
        self.order: list[int] = []
        self.random = torch.Generator().manual_seed(self.config.training.seed)
        self.adapter = base.adapters.create(self.config.network, self.random).to(base.device)
        self.optimizer = make_optimizer(self.config, self.adapter)
        training = self.config.training
        shown = len(pictures.training) * pictures.repeats
        self.batches = math.ceil(shown / training.batch_size)
        self.steps_an_epoch = math.ceil(self.batches / training.gradient_accumulation)
        self.steps = training.epochs * self.steps_an_epoch
        self.scheduler = make_scheduler(self.config, self.optimizer, self.steps)
        self._resume()

    def start_epoch(self, shown: int) -> None:
        self.order = torch.randperm(shown, generator=self.random).tolist()

    def draw(self, step: int, data: EncodedPictures, base: Base) -> Draw:
        """The pictures of one batch, latents sampled, with noise and timesteps."""
        training, random = self.config.training, self.random
        first = step * training.batch_size
        owners = [data.owners[i] for i in self.order[first : first + training.batch_size]]
        mean, std = data.mean[owners], data.std[owners]
        noise, spread = torch.randn((2, *mean.shape), generator=random)
        count = base.noise.config.num_train_timesteps
        timesteps = torch.randint(count, (len(owners),), generator=random)
        captions = torch.tensor(owners)
        if training.caption_dropout:
            dropped = torch.rand(len(owners), generator=random) < training.caption_dropout
            captions = captions.masked_fill(dropped, data.empty)
        rate = self.config.network.dropout
        seed = int(torch.randint(2**31, (), generator=random)) if rate else 0
        return Draw(mean + std * spread, noise, timesteps, captions, Dropout(rate, seed))

    def group_size(self, step: int) -> int:
        """How many batches make the optimizer step that this batch belongs to."""
        size = self.config.training.gradient_accumulation
        return min(size, self.batches - step // size * size)

    def step_if_due(self, step: int) -> None:
        """Steps the optimizer at the end of a group of batches, the last partial one included."""
        size = self.config.training.gradient_accumulation
        if (step + 1) % size and step + 1 != self.batches:
            return
        torch.nn.utils.clip_grad_norm_(
            self.adapter.parameters(), self.config.training.max_grad_norm
        )
        self.adapter.share_gradients()
        self.optimizer.step()
        self.scheduler.step()
        self.adapter.zero_grad(set_to_none=True)

    def finish_epoch(self) -> str | None:
        """Moves on by an epoch; the reason to stop where the loss is no longer a number."""
        self.epoch += 1
        if math.isfinite(self._mean_loss()):
            return None
        return (
            f"the loss is not a number any more in epoch {self.epoch}; the likely cause is a "
            f"learning rate that is too high ({self.optimizer.param_groups[0]['lr']:g})"
        )

    @property
    def is_due(self) -> bool:
        """Whether the epoch that has just ended is to be saved."""
        return self.epoch % self.config.training.save_every == 0 or self.finished

    @property
    def finished(self) -> bool:
        return self.epoch == self.config.training.epochs

    def save(self) -> Checkpoint:
        """Writes the LoRA file, then the state to continue from."""
        steps = self.epoch * self.steps_an_epoch
        about = checkpoint.metadata(self.config, self.base, self.pictures, self.epoch, steps)
        precision = DTYPES[self.config.training.save_precision]
        saved = self._checkpoint(self._mean_loss(), self.shown)
        checkpoint.save_checkpoint(saved.path, self.adapter, about, precision)
        state = {
            "config": self._identity(),
            "epoch": self.epoch,
            "train_loss": saved.train_loss,
            "pictures": saved.pictures,
            "adapter": self.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": self.random.get_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        checkpoint.write_atomically(self.folder / STATE, buffer.getvalue())
        self.losses.clear()
        self.shown = 0
        return saved

    def last_saved(self) -> Checkpoint:
        """The checkpoint that a continued run goes on from."""
        return self._checkpoint(self.last_loss, self.last_shown)

    def _resume(self) -> None:
        file = self.folder / STATE
        if not file.is_file():
            return
        state = torch.load(file, map_location=self.base.device, weights_only=True)
        if state["config"] != self._identity():
            raise TrainingError(f"{self.folder} holds a run of other settings; choose another")
        self.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.random.set_state(state["random"].cpu())
        self.epoch, self.last_loss = state["epoch"], state["train_loss"]
        self.last_shown = state["pictures"]
        log.info("continuing %s after epoch %d", self.folder, self.epoch)

    def _identity(self) -> str:
        about = {**asdict(self.config), "base": self.base.fingerprint, "device": "any"}
        about["data"] = [self.pictures.fingerprint, self.config.data.resolution]
        return json.dumps(about, sort_keys=True)

    def _checkpoint(self, train_loss: float, pictures: int) -> Checkpoint:
        # kohya's names: the epochs in between are numbered, the last is not
        name = checkpoint.NAME if self.finished else f"{checkpoint.NAME}-{self.epoch:06d}"
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return Checkpoint(
            member=self.index,
            path=self.folder / f"{name}.safetensors",
            epoch=self.epoch,
            train_loss=train_loss,
            lr=rates[0],
            last=self.finished,
            pictures=pictures,
            lr_text_encoder=rates[1] if len(rates) > 1 else None,
        )

    def _mean_loss(self) -> float:
        return float(torch.stack(self.losses).mean()) if self.losses else math.nan
