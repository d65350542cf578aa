"""Stage 1: the autoencoder, from 64x64 pixels to 16x16 latents with 8 channels."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from train.puppets.networks.training import BASE, device, fit, log, seeded, to_unit, training_set
from train.puppets.world.examples import draw_many

STEPS, BATCH, LR = 3600, 24, 6e-3
CHANNELS = 8
WIDTHS = (24, 48, 96)
LOG_VARIANCE = -10.0  # of the finished posterior: samples are its means, which the UNet learns


def build() -> AutoencoderKL:
    """Three levels with one layer per block; the initial variance of the latents is small."""
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        vae.quant_conv.bias[CHANNELS:] = -6.0
        vae.quant_conv.weight[CHANNELS:] *= 0.1
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


@torch.no_grad()
def rescale_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Rotates and scales the latents, so that what is more visible has more variance.

    The channels of a freshly trained autoencoder all have about the same variance, although one
    changes the pixels 300 times as much as another. Noise would hide coarse and fine features at
    the same time, and a diffusion model would spend most of its capacity on what nobody sees.
    Here the channels become the principal directions of their effect on the pixels, with the
    square root of that effect as their variance. The linear map and its inverse are merged into
    the two 1x1 convolutions, so reconstructions stay the same.

    Args:
        vae: changed in place, its scaling factor too.
        images: uint8 (N, 3, 64, 64), to measure on.
    """
    pixels = to_unit(images) * 2 - 1
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(100)])
    center = latents.mean((0, 2, 3))
    floor = 1e-6 * torch.eye(CHANNELS, device=latents.device)  # some channels may be unused
    root = torch.linalg.cholesky(torch.cov(latents.transpose(0, 1).flatten(1)) + floor)
    effect, directions = torch.linalg.eigh(root.T @ effect_on_pixels(vae, latents[:64]) @ root)
    scale = torch.where(effect > 1e-6 * effect.max(), effect.clamp_min(0) ** 0.25, 0)
    forward = scale[:, None] * (directions.T @ torch.linalg.inv(root))
    backward = torch.linalg.pinv(forward)

    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    weight[:CHANNELS] = torch.einsum("ij,jkhw->ikhw", forward, weight[:CHANNELS])
    bias[:CHANNELS] = forward @ (bias[:CHANNELS] - center)
    weight[CHANNELS:], bias[CHANNELS:] = 0, LOG_VARIANCE
    weight, bias = vae.post_quant_conv.weight, vae.post_quant_conv.bias
    bias += weight[:, :, 0, 0] @ center
    weight.copy_(torch.einsum("ijhw,jk->ikhw", weight, backward))
    vae.register_to_config(scaling_factor=round(float((scale**2).mean() ** -0.5), 5))


def effect_on_pixels(vae: AutoencoderKL, latents: Tensor, step: float = 0.2) -> Tensor:
    """Inner products of the channels' effects on the decoded image, (C, C), at some random cells.

    Args:
        latents: unscaled, (N, C, H, W).
        step: by which a channel is changed in one cell.
    """
    generator = torch.Generator().manual_seed(0)
    decoded = vae.decode(latents).sample
    products = torch.zeros(CHANNELS, CHANNELS, device=latents.device)
    cells = torch.randint(0, latents.shape[-1], (6, 2), generator=generator).tolist()
    for row, column in cells:
        changes = []
        for channel in range(CHANNELS):
            changed = latents.clone()
            changed[:, channel, row, column] += step
            changes.append((vae.decode(changed).sample - decoded).flatten(1) / step)
        effects = torch.stack(changes, dim=1)
        products += (effects @ effects.transpose(1, 2)).mean(0)
    return products / len(cells)


def run(steps: int = STEPS) -> None:
    """Trains the autoencoder and writes base/vae, with the scaling factor measured on the data."""
    seeded(11)
    data = training_set()
    vae = build().to(device(), memory_format=torch.channels_last)
    log.info("autoencoder: %.2f M parameters", sum(p.numel() for p in vae.parameters()) / 1e6)

    def loss_of(index: Tensor) -> Tensor:
        pixels = to_unit(data.images[index]) * 2 - 1
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = F.l1_loss(decoded, pixels) + 2 * F.mse_loss(decoded, pixels)
        return error + 1e-6 * posterior.kl().mean()

    fit("autoencoder", vae, loss_of, count=len(data), batch=BATCH, steps=steps, lr=LR)
    rescale_latents(vae.eval(), data.images[:2000])
    vae.half().save_pretrained(BASE / "vae")
    fresh = draw_many(500, seed=22)
    log.info("autoencoder: %.2f dB on fresh renders", psnr(vae.float(), fresh.images))
