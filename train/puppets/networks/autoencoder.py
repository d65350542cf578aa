"""Stage 1: the autoencoder, from 32x32 pixels to 16x16 latents with four channels."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from train.puppets.networks.training import BASE, device, fit, log, seeded, to_unit, training_set
from train.puppets.world.examples import draw_many

STEPS, BATCH, LR = 1800, 32, 2e-3


def build() -> AutoencoderKL:
    """Two levels with one layer per block; the initial variance of the latents is small."""
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=32,
    )
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -6.0
        vae.quant_conv.weight[4:] *= 0.1
    return vae


def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal-to-noise ratio of the reconstructions in decibels, over all images together."""
    with torch.no_grad():
        decoded = reconstruct(vae, images)
    return float(-10 * torch.log10(F.mse_loss(decoded, to_unit(images))))


def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encodes and decodes images; 0 to 1."""
    pixels = to_unit(images) * 2 - 1
    parts = [vae.decode(vae.encode(p).latent_dist.mean).sample for p in pixels.split(128)]
    return ((torch.cat(parts) + 1) / 2).clamp(0, 1)


def run(steps: int = STEPS) -> None:
    """Trains the autoencoder and writes base/vae, with the scaling factor measured on the data."""
    seeded(11)
    data = training_set()
    vae = build().to(device())
    log.info("autoencoder: %.2f M parameters", sum(p.numel() for p in vae.parameters()) / 1e6)

    def loss_of(index: Tensor) -> Tensor:
        pixels = to_unit(data.images[index]) * 2 - 1
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = F.l1_loss(decoded, pixels) + 2 * F.mse_loss(decoded, pixels)
        return error + 1e-6 * posterior.kl().mean()

    fit("autoencoder", vae, loss_of, count=len(data), batch=BATCH, steps=steps, lr=LR)
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(to_unit(data.images[:2000]) * 2 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    vae.half().save_pretrained(BASE / "vae")
    fresh = draw_many(500, seed=22)
    log.info("autoencoder: %.2f dB on fresh renders", psnr(vae.float(), fresh.images))
