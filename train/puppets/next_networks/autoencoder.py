"""Stage 1: the autoencoder, from 64x64 pixels to 16x16 latents with 16 channels."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from train.puppets.networks.autoencoder import psnr
from train.puppets.networks.training import device, fit, log, seeded, to_unit
from train.puppets.next_networks.muon import Muon
from train.puppets.next_networks.training import BASE, training_set
from train.puppets.next_world.examples import draw_many

STEPS, BATCH, LR = 3600, 24, 6e-3
CHANNELS = 16
WIDTHS = (24, 48, 96)


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

    fit(
        "autoencoder",
        vae,
        loss_of,
        count=len(data),
        batch=BATCH,
        steps=steps,
        lr=LR,
        optimizer_class=Muon,
    )
    vae.eval()
    with torch.no_grad():
        parts = (to_unit(data.images[:2000]) * 2 - 1).split(250)
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in parts])
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    vae.half().save_pretrained(BASE / "vae")
    fresh = draw_many(500, seed=22)
    log.info("autoencoder: %.2f dB on fresh renders", psnr(vae.float(), fresh.images))
