"""What the diffusion loss tells: on pictures that were held out, and on those that were trained."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from evaluate.metrics.base import LEAST, Mean, Score
from train.config.schema import DataConfig
from train.data.batching import frames_of
from train.data.images import framing
from train.data.images.buckets import Frame, Size
from train.data.images.image import TrainingImage
from train.loop.loss import diffusion_loss
from train.lora.adapter import Adapter
from train.models.base_model import BaseModel
from train.models.latents import encode_latents

ROWS = 32  # pictures x timesteps in one forward pass
ENCODED = 8  # pictures at once


class ValidationLoss(Mean):
    """Mean diffusion loss on held-out pictures, at fixed timesteps and fixed noise.

    `update` takes the mean over the timesteps of each picture, so that the interval is one over
    pictures: the timesteps are always the same. Of one picture it takes the loss at each timestep.
    """

    higher_is_better = False


class GeneralizationGap(Score):
    """Loss on held-out pictures minus that on training pictures, at the same timesteps."""

    higher_is_better = False

    def update(self, *features: Tensor) -> None:
        """Losses (n,) of the held-out pictures and (m,) of the training ones, in one call."""
        held_out, trained = features
        self.counts = len(held_out), len(trained)
        super().update(torch.cat([held_out, trained]))

    def compute(self) -> Tensor:
        values = torch.cat(self.values)
        if min(self.counts) < LEAST:
            return torch.full((3,), torch.nan)
        generator = torch.Generator().manual_seed(0)
        means = [
            part[torch.randint(len(part), (self.resamples, len(part)), generator=generator)].mean(1)
            for part in values.split(self.counts)
        ]
        held_out, trained = (part.mean() for part in values.split(self.counts))
        gap, tails = held_out - trained, (1 - self.confidence) / 2
        low, high = torch.quantile(means[0] - means[1], torch.tensor([tails, 1 - tails]))
        return torch.stack([gap, low.clamp_max(gap), high.clamp_min(gap)])

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        raise TypeError("a gap has two samples")


class FixedLosses:
    """Pictures, noised once and for all, so that two checkpoints differ by weights alone.

    Networks are in eval mode and no random state is touched.

    Args:
        data: the settings of training: each picture has the size in which it would be trained.
        timesteps: how many, spread evenly over the schedule.
        by_timestep: whether the losses of a picture at each timestep are given one by one.
    """

    def __init__(
        self,
        base: BaseModel,
        pictures: list[TrainingImage],
        data: DataConfig,
        timesteps: int,
        by_timestep: bool = False,
    ) -> None:
        self.base, self.pictures = base, pictures
        self.each = timesteps if by_timestep else 1
        sized: dict[Size, list[tuple[int, Frame]]] = defaultdict(list)
        for place, frame in enumerate(frames_of(pictures, data)):
            sized[frame.size].append((place, frame))
        self.groups = [
            OfOneSize(base, [(place, pictures[place], frame) for place, frame in some], timesteps)
            for some in sized.values()
        ]

    def __call__(self, adapters: list[Adapter]) -> Tensor:
        """The mean loss of each picture over the timesteps, or all of them, for K adapters.

        Returns:
            (K, pictures), or (K, pictures * timesteps)
        """
        losses = torch.zeros(len(adapters), len(self.pictures), self.each)
        for row, adapter in enumerate(adapters):
            with torch.inference_mode(), self.base.adapters.frozen(adapter):
                for group in self.groups:
                    found = group.losses()
                    losses[row, group.places] = found if self.each > 1 else found.mean(1, True)
        return losses.flatten(1)


class OfOneSize:
    """Those of the pictures that are of one size.

    Args:
        framed: the picture's place among all, itself, and how it is brought to the size.
    """

    def __init__(
        self, base: BaseModel, framed: list[tuple[int, TrainingImage, Frame]], timesteps: int
    ) -> None:
        self.base, self.count = base, timesteps
        self.places = [place for place, _, _ in framed]
        self.captions = [picture.caption for _, picture, _ in framed for _ in range(timesteps)]
        encoded = [
            encode_latents(
                base,
                torch.stack(
                    [framing.framed(picture, frame) for _, picture, frame in framed[k:][:ENCODED]]
                ),
            )[0]
            for k in range(0, len(framed), ENCODED)
        ]
        sizes = torch.tensor([picture.sizes(frame) for _, picture, frame in framed])
        self.sizes = sizes.repeat_interleave(timesteps, dim=0)
        self.latents = torch.cat(encoded).repeat_interleave(timesteps, dim=0)
        # the noise of one picture is the noise of all: their losses can be compared
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.latents[:timesteps].shape, generator=generator)
        self.noise = noise.repeat(len(framed), 1, 1, 1).to(base.device)
        count = base.noise.config.num_train_timesteps
        middles = (torch.arange(timesteps) + 0.5) / timesteps * count
        self.timesteps = middles.long().repeat(len(framed)).to(base.device)

    def losses(self) -> Tensor:
        """(pictures, timesteps), with the adapter in use."""
        parts = []
        for start in range(0, len(self.captions), ROWS):
            rows = slice(start, start + ROWS)
            text = self.base.encode_text(self.captions[rows])
            text = text | self.base.size_conditioning(self.sizes[rows])
            fixed = self.latents[rows], self.noise[rows], self.timesteps[rows]
            parts.append(diffusion_loss(self.base, *fixed, text).cpu())
        return torch.cat(parts).unflatten(0, (-1, self.count))
