"""Stage 3: the UNet on 16x16x8 latents, v-prediction down to zero signal-to-noise ratio."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from train.puppets.networks.autoencoder import CHANNELS
from train.puppets.networks.targets import loss_weights
from train.puppets.networks.text_encoder import WIDTH, tokens
from train.puppets.networks.training import BASE, device, fit, log, seeded, to_unit, training_set
from train.puppets.world.examples import Drawing, loose_caption

# steps and peak learning rate, each decaying to zero
CYCLES = (
    (2600, 3e-3), (2200, 3e-3), (2600, 3e-3), (3200, 3e-3), (3200, 3e-3), (2700, 3e-3),
    (2900, 3e-3), (2900, 2e-3),
)  # fmt: skip
BATCH = 48
EMPTY_CAPTIONS, EMA_DECAY = 0.1, 0.998
SAVE_EVERY = 400
WILD_TIMES = (
    3  # as often as others: no caption says how their heads look, so there is more to learn
)
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
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
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


def write_index() -> None:
    """Writes model_index.json, so that diffusers can load the folder."""
    (BASE / "model_index.json").write_text(json.dumps(PIPELINE, indent=2) + "\n")


def encoded(images: Tensor) -> Tensor:
    """The images' latents (means) by the autoencoder, scaled to unit variance."""
    vae = AutoencoderKL.from_pretrained(BASE / "vae").float().eval()
    vae = vae.to(device(), memory_format=torch.channels_last)
    factor = vae.config.scaling_factor
    parts = []
    with torch.no_grad():
        for part in images.split(50):
            pixels = (to_unit(part) * 2 - 1).contiguous(memory_format=torch.channels_last)
            parts.append(vae.encode(pixels).latent_dist.mean.contiguous() * factor)
    return torch.cat(parts)


def training_times(count: int) -> Tensor:
    """Random timesteps; those at which poses and faces emerge are more frequent."""
    times = torch.randint(0, 1000, (count,), device=device())
    return torch.where(torch.rand(count, device=device()) < 0.5, 100 + 6 * times // 10, times)


def run(first: int = 0, folder: Path = BASE / "unet") -> None:
    """Trains the UNet on cached latents and regularly writes the averaged weights.

    Args:
        first: the cycle to begin with; a later one continues from the weights in base/unet.
        folder: where to write.
    """
    seeded(13 + first)
    data = training_set()
    latents = encoded(data.images)
    log.info("unet: %d latents, std %.3f", len(latents), latents.std())
    scheduler = schedule()
    scheduler.save_pretrained(BASE / "scheduler")
    write_index()
    unet = build() if first == 0 else UNet2DConditionModel.from_pretrained(BASE / "unet")
    unet = unet.to(device()).float().train()
    log.info("unet: %.2f M parameters", sum(p.numel() for p in unet.parameters()) / 1e6)
    states_of = caption_states(data.drawings, Random(13 + first))
    weights = loss_weights(data.drawings)
    shown = indices_shown(data.drawings)

    def loss_of(position: Tensor) -> Tensor:
        index = shown[position]
        clean = latents[index.to(latents.device)]
        noise = torch.randn_like(clean)
        times = training_times(len(clean))
        noisy = scheduler.add_noise(clean, noise, times)
        velocity = scheduler.get_velocity(clean, noise, times)
        errors = (unet(noisy, times, states_of(index)).sample - velocity) ** 2
        return (errors * weights[index].to(errors.device)).mean()

    for cycle, (steps, lr) in enumerate(CYCLES[first:], start=first):
        ema = EMAModel(unet.parameters(), decay=EMA_DECAY)

        def after_step(step: int, last: int = steps, average: EMAModel = ema) -> None:
            average.step(unet.parameters())
            if step % SAVE_EVERY == 0 or step == last:
                averaged = build()
                average.copy_to(averaged.parameters())
                averaged.half().save_pretrained(folder)

        fit(f"unet cycle {cycle}", unet, loss_of, count=len(shown), batch=BATCH, steps=steps,
            lr=lr, seed=cycle, after_step=after_step, weight_decay=0.01)  # fmt: skip
        ema.copy_to(unet.parameters())


def indices_shown(drawings: list[Drawing]) -> Tensor:
    """The indices of an epoch: of each drawing once, of a wild subject's WILD_TIMES."""
    times = [WILD_TIMES if drawing.subject.looks.wild else 1 for drawing in drawings]
    return torch.arange(len(drawings)).repeat_interleave(torch.tensor(times))


def caption_states(drawings: list[Drawing], rng: Random) -> Callable[[Tensor], Tensor]:
    """Maps indices to the frozen text encoder's states, with a new loose caption each time."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder").to(device()).float().eval()

    @torch.no_grad()
    def states_of(index: Tensor) -> Tensor:
        texts = [
            "" if rng.random() < EMPTY_CAPTIONS else loose_caption(d.subject, rng, d.medium)
            for d in (drawings[i] for i in index.tolist())
        ]
        states: Tensor = encoder(tokens(tokenizer, texts)).last_hidden_state
        return states

    return states_of
