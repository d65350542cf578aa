"""Probe images: of one checkpoint, of K checkpoints, or of the base alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from evaluate.console.progress import Countdown
from train.lora.adapter import Adapter
from train.models.base_model import BaseModel

# positions of latents in one forward pass that fill the device: 97 rows of 16x16 on a CPU, 24 of
# 64x64 on a GPU
POSITIONS = {"cpu": 25_000, "cuda": 100_000}


def generate(
    base: BaseModel,
    adapters: Sequence[Adapter],
    prompts: list[str],
    seeds: list[int],
    resolution: int,
    steps: int,
    guidance: float,
    countdown: Countdown | None = None,
) -> Tensor:
    """One image for each prompt and adapter, by DDIM (Song et al. 2021) with guidance.

    The noise of an image depends on its seed only, so the image is the same alone, in any batch
    and on any device. No global random state is touched. A forward pass is filled with prompts
    rather than adapters: one adapter at a time is faster than rows of several.

    Args:
        adapters: K LoRAs; empty for the base alone.
        prompts, seeds: N each.
        resolution: side of the images, in pixels.
        countdown: is updated after each forward pass with the number of images.

    Returns:
        (K, N, 3, H, W), 0 to 1, on the CPU; K = 1 for the base alone. Values that overflow the
        base's precision are not finite.
    """
    shape = base.latent_shape(resolution)
    positions = POSITIONS.get(base.device.type, POSITIONS["cpu"])
    size = max(1, positions // (2 * shape[-2] * shape[-1]))
    each: list[Adapter | None] = [*adapters] or [None]
    images = []
    for adapter in each:
        with torch.inference_mode(), base.adapters.frozen(adapter):
            for start in range(0, len(prompts), size):
                part = slice(start, start + size)
                noise = torch.stack([_noise(shape, seed) for seed in seeds[part]]).to(base.device)
                text = base.encode_text([""] * len(noise) + prompts[part])
                images.append(base.decode(_denoise(base, noise, text, steps, guidance)).cpu())
                if countdown is not None:
                    countdown.step(len(noise))
    return torch.cat(images).contiguous().unflatten(0, (-1, len(prompts)))


def _noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _denoise(
    base: BaseModel, noise: Tensor, text: dict[str, Tensor], steps: int, guidance: float
) -> Tensor:
    """(N, c, h, w) noise -> latents; `text` holds the N empty prompts, then the N prompts."""
    sampler = DDIMScheduler.from_config(
        base.noise_scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,  # configs without the key would clip; latents exceed 1
    )
    sampler.set_timesteps(steps)
    latents = noise
    for timestep in sampler.timesteps:
        rows = torch.cat([latents, latents])
        unconditional, conditional = base.predict(rows, timestep, text).chunk(2)
        guided = unconditional + guidance * (conditional - unconditional)
        latents = sampler.step(guided, timestep, latents).prev_sample
    return latents
