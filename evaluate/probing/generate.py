"""Probe images: of one checkpoint, of K at once, or of the bare base."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from train.base import Base
from train.lora import Adapter

ROW_VALUES = 100_000  # latent values in one forward pass: 97 rows of 16x16x4, 6 of 64x64x4


def generate(
    base: Base,
    adapters: list[Adapter],
    prompts: list[str],
    seeds: list[int],
    resolution: int,
    steps: int,
    guidance: float,
) -> Tensor:
    """One picture for each prompt and adapter, by DDIM (Song et al. 2021) with guidance.

    The noise of a picture hangs on its seed alone, so that it is the same alone, in any batch
    and on any device. No global random state is touched.

    Args:
        adapters: K LoRAs; none is the bare base.
        prompts, seeds: N each.
        resolution: side of the pictures, in pixels.

    Returns:
        (K, N, 3, H, W), 0 to 1, on the CPU; K = 1 for the bare base.
    """
    count = max(1, len(adapters))
    shape = base.latent_shape(resolution)
    size = max(1, ROW_VALUES // (2 * count * shape[0] * shape[1] * shape[2]))
    images = []
    with torch.inference_mode(), base.adapters.using(adapters):
        for start in range(0, len(prompts), size):
            part = slice(start, start + size)
            noise = torch.stack([_noise(shape, seed) for seed in seeds[part]]).to(base.device)
            text = _conditioning(base, prompts[part], count)
            latents = _denoise(base, noise, text, count, steps, guidance)
            images.append(base.decode(latents).unflatten(0, (count, len(noise))).cpu())
    return torch.cat(images, dim=1).clone()


def _noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _conditioning(base: Base, prompts: list[str], count: int) -> dict[str, Tensor]:
    """Rows owner by owner; of each owner first the empty prompts, then the prompts."""
    return base.encode_text(([""] * len(prompts) + prompts) * count)


def _denoise(
    base: Base, noise: Tensor, text: dict[str, Tensor], count: int, steps: int, guidance: float
) -> Tensor:
    """(N, c, h, w) noise -> (K * N, c, h, w) latents, owner by owner."""
    sampler = DDIMScheduler.from_config(
        base.noise.config,
        timestep_spacing="trailing",
        clip_sample=False,  # the default of configs that do not say; latents go beyond 1
    )
    sampler.set_timesteps(steps)
    latents = noise.expand(count, *noise.shape)
    for timestep in sampler.timesteps:
        rows = torch.stack([latents, latents], dim=1).flatten(0, 2).to(base.dtype)
        prediction = base.unet(rows, timestep, **text).sample.float()
        empty, asked = prediction.unflatten(0, (count, 2, len(noise))).unbind(1)
        guided = empty + guidance * (asked - empty)
        latents = sampler.step(guided, timestep, latents).prev_sample
    return latents.flatten(0, 1)
