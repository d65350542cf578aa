"""Stage 3: the UNet on 16x16x16 latents, v-prediction down to zero signal-to-noise ratio."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from train.puppets.networks.training import device, fit, log, seeded
from train.puppets.networks.unet import encoded, schedule, write_index
from train.puppets.next_networks.autoencoder import CHANNELS
from train.puppets.next_networks.muon import Muon
from train.puppets.next_networks.text_encoder import WIDTH, tokens
from train.puppets.next_networks.training import BASE, training_set
from train.puppets.next_world.examples import Drawing, loose_caption

# steps and peak learning rate, each decaying to zero
CYCLES = ((2600, 3e-3), (2200, 3e-3), (2600, 2e-3))
BATCH = 48
EMPTY_CAPTIONS, EMA_DECAY = 0.1, 0.998
SAVE_EVERY = 400


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


def run(first: int = 0, folder: Path = BASE / "unet") -> None:
    """Trains the UNet on cached latents and regularly writes the averaged weights.

    Args:
        first: the cycle to begin with; a later one continues from the weights in base/unet.
        folder: where to write.
    """
    seeded(13 + first)
    data = training_set()
    latents = encoded(data.images, BASE)
    log.info("unet: %d latents, std %.3f", len(latents), latents.std())
    scheduler = schedule()
    scheduler.save_pretrained(BASE / "scheduler")
    write_index(BASE)
    unet = build() if first == 0 else UNet2DConditionModel.from_pretrained(BASE / "unet")
    unet = unet.to(device()).float().train()
    log.info("unet: %.2f M parameters", sum(p.numel() for p in unet.parameters()) / 1e6)
    states_of = caption_states(data.drawings, Random(13 + first))

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
            lr=lr, seed=cycle, after_step=after_step, weight_decay=0.01,
            optimizer_class=Muon)  # fmt: skip
        ema.copy_to(unet.parameters())


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
