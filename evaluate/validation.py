"""The diffusion loss on held-out pictures, at fixed timesteps and fixed noise."""

from __future__ import annotations

import torch
from torch import Tensor

from train.base import Base
from train.data import Pictures
from train.lora import Adapter
from train.loss import diffusion_loss, encode_latents

ROWS = 32  # pictures x timesteps in one forward pass, for each adapter


class ValidationSet:
    """Held-out pictures, noised once and for all, so that two checkpoints differ by weights alone.

    Args:
        timesteps: how many, spread evenly over the schedule.
    """

    def __init__(self, base: Base, pictures: Pictures, resolution: int, timesteps: int) -> None:
        self.base = base
        self.captions = [p.caption for p in pictures.validation for _ in range(timesteps)]
        if not self.captions:
            return
        pixels = torch.stack([p.pixels(resolution) for p in pictures.validation])
        self.latents = encode_latents(base, pixels)[0].repeat_interleave(timesteps, dim=0)
        generator = torch.Generator().manual_seed(0)
        self.noise = torch.randn(self.latents.shape, generator=generator).to(base.device)
        count = base.noise.config.num_train_timesteps
        middles = (torch.arange(timesteps) + 0.5) / timesteps * count
        self.timesteps = middles.long().repeat(len(pictures.validation)).to(base.device)

    def losses(self, adapters: list[Adapter]) -> Tensor:
        """(K, pictures x timesteps): the loss of each, for K adapters at once; no random draws."""
        count = len(adapters)
        parts = []
        for start in range(0, len(self.captions), ROWS):
            rows = slice(start, start + ROWS)
            latents, noise, timesteps = (
                fixed[rows].repeat(count, *[1] * (fixed.ndim - 1))
                for fixed in (self.latents, self.noise, self.timesteps)
            )
            with torch.inference_mode(), self.base.adapters.using(adapters):
                text = self.base.encode_text(self.captions[rows] * count)
                loss = diffusion_loss(self.base, latents, noise, timesteps, text)
            parts.append(loss.unflatten(0, (count, -1)).cpu())
        return torch.cat(parts, dim=1).clone() if parts else torch.zeros(count, 0)
