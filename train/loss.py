"""The diffusion loss, for training and for validation."""

from __future__ import annotations

import torch
from torch import Tensor

from train.base import Base


def encode_latents(base: Base, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the scaled latents of pictures.

    Args:
        pixels: (N, 3, R, R), 0 to 1.

    Returns:
        two tensors (N, c, h, w) in float32 on the base's device.
    """
    with torch.inference_mode():
        scaled = (pixels * 2 - 1).to(base.device, base.vae.dtype)
        posterior = base.vae.encode(scaled).latent_dist
        shift = getattr(base.vae.config, "shift_factor", None) or 0.0
        factor = base.vae.config.scaling_factor
        mean, std = (posterior.mean - shift) * factor, posterior.std * factor
    return mean.float().clone(), std.float().clone()


def diffusion_loss(
    base: Base, latents: Tensor, noise: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]
) -> Tensor:
    """Mean squared error of the UNet's prediction, sample by sample (Ho et al. 2020).

    Args:
        latents, noise: (N, c, h, w), float32.
        timesteps: (N,), whole numbers.
        conditioning: of `Base.predict`, N rows each.

    Returns:
        (N,) float32. The target is the noise, or the velocity of Salimans and Ho 2022, or the
        picture itself, as the base was trained.
    """
    noisy = base.noise.add_noise(latents, noise, timesteps)
    prediction = base.predict(noisy, timesteps, conditioning)
    kind = base.prediction
    if kind == "v_prediction":
        target = base.noise.get_velocity(latents, noise, timesteps)
    else:
        target = noise if kind == "epsilon" else latents
    return (prediction - target).square().mean(dim=(1, 2, 3))
