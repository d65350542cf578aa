"""The scores of the diffusion loss: on held-out images, and compared with training images."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from evaluate.metrics.base import MIN_OBSERVATIONS, Mean, Score
from train.config.schema import DataConfig
from train.data.batching import crops_of
from train.data.images import cropping
from train.data.images.buckets import Crop, Size
from train.data.images.image import TrainingImage
from train.loop.loss import diffusion_loss
from train.lora.adapter import Adapter
from train.models.base_model import BaseModel
from train.models.latents import encode_latents

ROWS = 32  # images x timesteps in one forward pass
ENCODE_BATCH = 8  # images


class ValidationLoss(Mean):
    """Mean diffusion loss on held-out images, at fixed timesteps and with fixed noise.

    `update` takes each image's mean over the timesteps, which are always the same, so the interval
    is over images. With a single image it takes the loss at each timestep.
    """

    higher_is_better = False


class GeneralizationGap(Score):
    """Loss on held-out images minus loss on training images, at the same timesteps."""

    higher_is_better = False

    def update(self, *features: Tensor) -> None:
        """Losses (n,) of the held-out images and (m,) of the training images, in one call."""
        held_out, trained = features
        self.counts = len(held_out), len(trained)
        super().update(torch.cat([held_out, trained]))

    def compute(self) -> Tensor:
        values = torch.cat(self.values)
        if min(self.counts) < MIN_OBSERVATIONS:
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
        raise TypeError("the gap is a statistic of two samples")


class FixedLosses:
    """Losses of images with fixed noise, so that two checkpoints differ only by their weights.

    Networks are in eval mode and no random state is touched.

    Args:
        data: the settings of training; each image has the size in which it would be trained.
        timesteps: number of timesteps, spread evenly over the schedule.
        by_timestep: return the loss at each timestep instead of their mean.
    """

    def __init__(
        self,
        base: BaseModel,
        images: list[TrainingImage],
        data: DataConfig,
        timesteps: int,
        by_timestep: bool = False,
    ) -> None:
        self.base, self.images = base, images
        self.per_image = timesteps if by_timestep else 1
        by_size: dict[Size, list[tuple[int, Crop]]] = defaultdict(list)
        for index, crop in enumerate(crops_of(images, data)):
            by_size[crop.size].append((index, crop))
        self.groups = [
            SameSizeLosses(base, [(i, images[i], crop) for i, crop in group], timesteps)
            for group in by_size.values()
        ]

    def __call__(self, adapters: list[Adapter]) -> Tensor:
        """Each image's loss with K adapters: the mean over the timesteps, or all of them.

        Returns:
            (K, images), or (K, images * timesteps)
        """
        losses = torch.zeros(len(adapters), len(self.images), self.per_image)
        for row, adapter in enumerate(adapters):
            with torch.inference_mode(), self.base.adapters.frozen(adapter):
                for group in self.groups:
                    each = group.losses()
                    losses[row, group.indices] = each if self.per_image > 1 else each.mean(1, True)
        return losses.flatten(1)


class SameSizeLosses:
    """The images that are trained in one size.

    Args:
        cropped: for each image its index among all images, the image, and its crop.
    """

    def __init__(
        self, base: BaseModel, cropped: list[tuple[int, TrainingImage, Crop]], timesteps: int
    ) -> None:
        self.base, self.count = base, timesteps
        self.indices = [index for index, _, _ in cropped]
        self.captions = [image.caption for _, image, _ in cropped for _ in range(timesteps)]
        encoded = [
            encode_latents(
                base,
                torch.stack(
                    [cropping.cropped(image, crop) for _, image, crop in cropped[k:][:ENCODE_BATCH]]
                ),
            )[0]
            for k in range(0, len(cropped), ENCODE_BATCH)
        ]
        sizes = torch.tensor([image.sizes(crop) for _, image, crop in cropped])
        self.sizes = sizes.repeat_interleave(timesteps, dim=0)
        self.latents = torch.cat(encoded).repeat_interleave(timesteps, dim=0)
        # all images have the same noise, so that their losses can be compared
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.latents[:timesteps].shape, generator=generator)
        self.noise = noise.repeat(len(cropped), 1, 1, 1).to(base.device)
        count = base.noise_scheduler.config.num_train_timesteps
        middles = (torch.arange(timesteps) + 0.5) / timesteps * count
        self.timesteps = middles.long().repeat(len(cropped)).to(base.device)

    def losses(self) -> Tensor:
        """(images, timesteps), with the active adapter."""
        parts = []
        for start in range(0, len(self.captions), ROWS):
            rows = slice(start, start + ROWS)
            text = self.base.encode_text(self.captions[rows])
            text = text | self.base.size_conditioning(self.sizes[rows])
            fixed = self.latents[rows], self.noise[rows], self.timesteps[rows]
            parts.append(diffusion_loss(self.base, *fixed, text).cpu())
        return torch.cat(parts).unflatten(0, (-1, self.count))
