"""Images as latents."""

from __future__ import annotations

import torch
from torch import Tensor

from train.models.base_model import BaseModel


def encode_latents(base: BaseModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the scaled latents of images.

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
