"""Stage 3: the UNet on 16x16x4 latents, v-prediction down to zero signal-to-noise ratio."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from train.puppets.networks.text_encoder import tokens
from train.puppets.networks.training import BASE, device, fit, log, seeded, to_unit, training_set
from train.puppets.world.examples import Puppet, loose_caption

CYCLES = ((1700, 1.5e-3), (1600, 1e-3))  # steps and peak learning rate, each decaying to zero
BATCH = 48
TRAINING_IMAGES, EMPTY_CAPTIONS, EMA_DECAY = 40_000, 0.1, 0.998
SAVE_EVERY = 400
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build() -> UNet2DConditionModel:
    """Three levels, with cross-attention on the lower two; 5.3 M parameters."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def schedule() -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled to zero terminal SNR; sampling starts at the last step."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def write_index(base: Path = BASE) -> None:
    """Writes model_index.json, so that diffusers can load the folder."""
    (base / "model_index.json").write_text(json.dumps(PIPELINE, indent=2) + "\n")


def encoded(images: Tensor, base: Path = BASE) -> Tensor:
    """The images' latents (means) by the base's autoencoder, scaled to unit variance."""
    vae = AutoencoderKL.from_pretrained(base / "vae").float().eval()
    vae = vae.to(device(), memory_format=torch.channels_last)
    factor = vae.config.scaling_factor
    with torch.no_grad():
        parts = [
            vae.encode(to_unit(part) * 2 - 1).latent_dist.mean.contiguous() * factor
            for part in images.contiguous(memory_format=torch.channels_last).split(50)
        ]
    return torch.cat(parts)


def run(first: int = 0, folder: Path = BASE / "unet") -> None:
    """Trains the UNet on cached latents and regularly writes the averaged weights.

    Args:
        first: the cycle to begin with; a later one continues from the weights in base/unet.
        folder: where to write.
    """
    seeded(13 + first)
    data = training_set()
    latents = encoded(data.images[:TRAINING_IMAGES])
    log.info("unet: %d latents, std %.3f", len(latents), latents.std())
    scheduler = schedule()
    scheduler.save_pretrained(BASE / "scheduler")
    write_index()
    unet = build() if first == 0 else UNet2DConditionModel.from_pretrained(BASE / "unet")
    unet = unet.to(device(), memory_format=torch.channels_last).float().train()
    log.info("unet: %.2f M parameters", sum(p.numel() for p in unet.parameters()) / 1e6)
    states_of = caption_states(data.puppets, Random(13 + first))

    def loss_of(index: Tensor) -> Tensor:
        clean = latents[index.to(latents.device)]
        noise = torch.randn_like(clean)
        times = torch.randint(0, 1000, (len(clean),), device=clean.device)
        noisy = scheduler.add_noise(clean, noise, times)
        velocity = scheduler.get_velocity(clean, noise, times)
        return F.mse_loss(unet(noisy, times, states_of(index)).sample, velocity)

    for cycle, (steps, lr) in enumerate(CYCLES[first:], start=first):
        ema = EMAModel(unet.parameters(), decay=EMA_DECAY)

        def after_step(step: int, last: int = steps, average: EMAModel = ema) -> None:
            average.step(unet.parameters())
            if step % SAVE_EVERY == 0 or step == last:
                averaged = build()
                average.copy_to(averaged.parameters())
                averaged.half().save_pretrained(folder)

        fit(f"unet cycle {cycle}", unet, loss_of, count=len(latents), batch=BATCH, steps=steps,
            lr=lr, seed=cycle, after_step=after_step, weight_decay=0.01)  # fmt: skip
        ema.copy_to(unet.parameters())


def caption_states(puppets: list[Puppet], rng: Random) -> Callable[[Tensor], Tensor]:
    """Maps indices to the frozen text encoder's states, with a new loose caption each time."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder").to(device()).float().eval()

    @torch.no_grad()
    def states_of(index: Tensor) -> Tensor:
        texts = [
            "" if rng.random() < EMPTY_CAPTIONS else loose_caption(puppets[i], rng)
            for i in index.tolist()
        ]
        states: Tensor = encoder(tokens(tokenizer, texts)).last_hidden_state
        return states

    return states_of
