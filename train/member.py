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
    """

    member: int
    path: Path
    epoch: int
    train_loss: float
    lr: float
    last: bool


@dataclass(frozen=True)
class Draw:
    """The random choices for one member's part of a batch."""

    owners: list[int]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor


class Run:
    """A member in training. Continues the run whose state is in the member's folder."""

    def __init__(self, index: int, member: Member, base: Base, pictures: Pictures) -> None:
        self.index, self.config, self.folder = index, member.config, member.folder
        self.base, self.pictures = base, pictures
        self.stopped = False
        self.epoch = 0
        self.losses: list[Tensor] = []
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
        size = self.config.training.batch_size
        owners = [data.owners[i] for i in self.order[step * size : (step + 1) * size]]
        mean, std = data.mean[owners], data.std[owners]
        noise, spread = torch.randn((2, *mean.shape), generator=self.random)
        count = base.noise.config.num_train_timesteps
        timesteps = torch.randint(count, (len(owners),), generator=self.random)
        return Draw(owners, mean + std * spread, noise, timesteps)

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
        self.stopped = True
        return (
            f"the loss is not a number any more in epoch {self.epoch}; the likely cause is a "
            f"learning rate that is too high ({self.optimizer.param_groups[0]['lr']:g})"
        )

    def is_due(self, number: int) -> bool:
        training = self.config.training
        if self.stopped or number > training.epochs:
            return False
        return number % training.save_every == 0 or number == training.epochs

    def save(self, number: int) -> Checkpoint:
        """Writes the LoRA file, then the state to continue from."""
        path = self._path(number)
        about = checkpoint.metadata(
            self.config, self.base, self.pictures, number, number * self.steps_an_epoch
        )
        precision = DTYPES[self.config.training.save_precision]
        checkpoint.save_checkpoint(path, self.adapter, about, precision)
        saved = self._checkpoint(number, self._mean_loss())
        state = {
            "config": self._identity(),
            "epoch": number,
            "train_loss": saved.train_loss,
            "adapter": self.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": self.random.get_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        checkpoint.write_atomically(self.folder / STATE, buffer.getvalue())
        self.losses.clear()
        if saved.last:
            self.stopped = True
        return saved

    def last_saved(self) -> Checkpoint:
        return self._checkpoint(self.epoch, self.last_loss)

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
        self.stopped = self.epoch == self.config.training.epochs
        log.info("continuing %s after epoch %d", self.folder, self.epoch)

    def _identity(self) -> str:
        about = {**asdict(self.config), "base": self.base.fingerprint, "device": "any"}
        about["data"] = [self.pictures.fingerprint, self.config.data.resolution]
        return json.dumps(about, sort_keys=True)

    def _checkpoint(self, number: int, train_loss: float) -> Checkpoint:
        return Checkpoint(
            member=self.index,
            path=self._path(number),
            epoch=number,
            train_loss=train_loss,
            lr=self.optimizer.param_groups[0]["lr"],
            last=number == self.config.training.epochs,
        )

    def _path(self, number: int) -> Path:
        """kohya's names: the epochs in between are numbered, the last is not."""
        last = number == self.config.training.epochs
        name = checkpoint.NAME if last else f"{checkpoint.NAME}-{number:06d}"
        return self.folder / f"{name}.safetensors"

    def _mean_loss(self) -> float:
        return float(torch.stack(self.losses).mean()) if self.losses else math.nan
