"""The diffusion loss, for training and for validation."""

from __future__ import annotations

import torch
from diffusers.training_utils import compute_snr
from torch import Tensor

from train.config.schema import TrainingConfig
from train.models.base_model import BaseModel


def row_weights(
    base: BaseModel, training: TrainingConfig, timesteps: Tensor, prior: Tensor | None = None
) -> Tensor:
    """The weight of each row of a batch in the loss.

    With `min_snr_gamma`, the loss on the image has the weight min(SNR, gamma) at each timestep
    (Hang et al. 2023, arXiv 2303.09556): that is min(1, gamma / SNR) for the loss on the noise and
    min(SNR, gamma) / (SNR + 1) for that on the velocity. Both are finite at zero terminal SNR.

    Args:
        timesteps: (N,), integers.
        prior: (N,) bool, the rows with regularization images, whose weight is multiplied by
            `prior_loss_weight`; None: no row.

    Returns:
        (N,) float32, on the CPU.
    """
    weights = torch.ones(len(timesteps))
    if training.min_snr_gamma is not None:
        snr, kind = (
            compute_snr(base.noise_scheduler, timesteps.cpu()),
            base.noise_scheduler.config.prediction_type,
        )
        capped = snr.clamp(max=training.min_snr_gamma)
        if kind == "v_prediction":
            weights = capped / (snr + 1)
        elif kind == "epsilon":
            weights = (training.min_snr_gamma / snr).clamp(max=1.0)
        else:
            weights = capped
    if prior is not None:
        weights = torch.where(prior, weights * training.prior_loss_weight, weights)
    return weights


def diffusion_loss(
    base: BaseModel,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditioning: dict[str, Tensor],
) -> Tensor:
    """Mean squared error of the UNet's prediction, for each sample (Ho et al. 2020).

    Args:
        latents, noise: (N, c, h, w), float32.
        timesteps: (N,), integers.
        conditioning: of `BaseModel.predict`, N rows each.

    Returns:
        (N,) float32. The target is the noise, the velocity of Salimans and Ho 2022, or the image
        itself, depending on the base's prediction type.
    """
    noisy = base.noise_scheduler.add_noise(latents, noise, timesteps)
    prediction = base.predict(noisy, timesteps, conditioning)
    kind = base.prediction_type
    if kind == "v_prediction":
        target = base.noise_scheduler.get_velocity(latents, noise, timesteps)
    else:
        target = noise if kind == "epsilon" else latents
    return (prediction - target).square().mean(dim=(1, 2, 3))
