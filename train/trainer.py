"""The trainer: K adapters on one frozen base, an iterator over the saved epochs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.base import Base
from train.cache import encode_pictures
from train.data import Pictures
from train.loss import diffusion_loss
from train.member import Checkpoint, Member, Run, TrainingError

__all__ = ["Checkpoint", "Epoch", "Member", "Trainer", "TrainingError"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch of the pack saved.

    Attributes:
        seconds: spent on training since the last yield.
        failures: members that broke down in this epoch, with the reason.
    """

    number: int
    total: int
    checkpoints: list[Checkpoint]
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)


class Trainer:
    """Trains a pack of trials; a single trial is a pack of one.

    The members share base, pictures, resolution and batch size. Each has its own weights,
    optimizer, schedule and random stream, so that it gets the same result as when alone. A member
    whose folder holds the state of an interrupted run continues it, to the same bytes as if it
    had not been interrupted; its last saved epoch is yielded again first.

    Args:
        base: from `load_base`.
        pictures: from `load_pictures`.
        members: the trials; all of the pack start at the same epoch.

    Raises:
        TrainingError: members that cannot share a pack, or a folder of other settings.
    """

    def __init__(self, base: Base, pictures: Pictures, members: list[Member]) -> None:
        shared = {
            (m.config.data.resolution, m.config.training.batch_size, m.config.base.path)
            for m in members
        }
        if len(shared) != 1:
            raise TrainingError("a pack's trials must share base, resolution and batch size")
        self.base = base
        self.data = encode_pictures(base, pictures, members[0].config.data.resolution)
        self.runs = [Run(index, m, base, pictures) for index, m in enumerate(members)]
        starts = {run.epoch for run in self.runs}
        if len(starts) != 1:
            raise TrainingError("a pack's trials must start at the same epoch")
        self.start = starts.pop()  # the epoch to continue after; 0 at first
        self.total = max(m.config.training.epochs for m in members)

    def __iter__(self) -> Iterator[Epoch]:
        if self.start:
            yield Epoch(self.start, self.total, [run.last_saved() for run in self.runs], 0.0)
        began = time.perf_counter()
        for number in range(self.start + 1, self.total + 1):
            running = [run for run in self.runs if not run.stopped]
            if not running:
                return
            failures = self._train_epoch(running)
            saved = [run.save(number) for run in running if run.is_due(number)]
            if saved or failures:
                yield Epoch(number, self.total, saved, time.perf_counter() - began, failures)
                began = time.perf_counter()

    def stop(self, member: int) -> None:
        """The member trains no further; what it saved stays."""
        self.runs[member].stopped = True

    def _train_epoch(self, running: list[Run]) -> dict[int, str]:
        for run in running:
            run.start_epoch(len(self.data.owners))
        for step in range(running[0].batches):
            self._accumulate(running, step)
            for run in running:
                run.step_if_due(step)
        return {run.index: reason for run in running if (reason := run.finish_epoch())}

    def _accumulate(self, running: list[Run], step: int) -> None:
        """One forward and backward pass for all the members: rows owner by owner."""
        drawn = [run.draw(step, self.data, self.base) for run in running]
        latents, noise, timesteps = (
            torch.cat([getattr(d, name) for d in drawn]).to(self.base.device)
            for name in ("latents", "noise", "timesteps")
        )
        owners = [owner for d in drawn for owner in d.owners]
        with self.base.adapters.using([run.adapter for run in running]):
            loss = diffusion_loss(
                self.base, latents, noise, timesteps, self._conditioning(running, owners)
            )
            shares = [part.mean() for part in loss.chunk(len(running))]
            torch.stack(
                [share / run.group_size(step) for run, share in zip(running, shares, strict=True)]
            ).sum().backward()
        for run, share in zip(running, shares, strict=True):
            run.losses.append(share.detach())

    def _conditioning(self, running: list[Run], owners: list[int]) -> dict[str, Tensor]:
        """Text embeddings of the rows' captions: cached, or fresh where a text encoder learns."""
        if any(run.config.network.text_encoder for run in running):
            return self.base.encode_text([self.data.captions[owner] for owner in owners])
        return {key: value[owners] for key, value in self.data.conditioning.items()}
