"""`python -m bench.arms.plain FOLDER SIDE STEPS STARTED script|modules`: a plain training loop.

`script`: like diffusers' example script for LoRAs, written from its documentation: peft's LoRA on
the four attention matrices, the whole model in memory, image and caption encoded at each step.
`modules`: the same loop with a LoRA module on every layer that kohya's `networks.lora` targets,
each with its own forward call as there, and cached latents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from bench.arms.clock import Clock

RANK, LR = 8, 1e-4
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
BLOCK = "Transformer2DModel"  # kohya targets every Linear and 1x1 convolution in these


class Lora(nn.Module):
    """LoRA of one module (Hu et al. 2021), which replaces the module's forward."""

    def __init__(self, module: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        outputs, inputs = module.weight.shape[:2]
        if isinstance(module, nn.Conv2d):
            self.down: nn.Module = nn.Conv2d(inputs, RANK, 1, bias=False)
            self.up: nn.Module = nn.Conv2d(RANK, outputs, 1, bias=False)
        else:
            self.down = nn.Linear(inputs, RANK, bias=False)
            self.up = nn.Linear(RANK, outputs, bias=False)
        nn.init.zeros_(self.up.weight)
        self.original_forward: Callable[[Tensor], Tensor] = module.forward
        module.forward = self.forward  # type: ignore[method-assign,assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum of the module's output and the LoRA's."""
        return self.original_forward(x) + self.up(self.down(x))


def add_loras(unet: UNet2DConditionModel) -> nn.ModuleList:
    """Adds a LoRA to every Linear and 1x1 convolution of the transformer blocks."""
    blocks = [block for block in unet.modules() if type(block).__name__ == BLOCK]
    layers = [
        m for block in blocks for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    return nn.ModuleList(Lora(module) for module in layers)


def load_pixels(file: Path, side: int) -> Tensor:
    """Returns an image, (1, 3, side, side), with values from -1 to 1."""
    image = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


def main() -> None:
    """Trains STEPS steps and reports their measurements."""
    folder, side, steps, started, arm = sys.argv[1:]
    torch.set_num_threads(1)
    clock = Clock(float(started))
    accelerator = Accelerator(cpu=True)
    noise_scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    for network in (text_encoder, vae, unet):
        network.requires_grad_(False)
    if arm == "script":
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian",
                                    target_modules=ATTENTION))  # fmt: skip
        parameters = [p for p in unet.parameters() if p.requires_grad]
        unet.train()
    else:
        parameters = list(add_loras(unet).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    unet, optimizer, scheduler = accelerator.prepare(unet, optimizer, scheduler)
    file = next(Path(folder, "pictures").glob("*.png"))
    caption = file.with_suffix(".txt").read_text()

    def encode() -> Tensor:
        with torch.no_grad():
            sample = vae.encode(load_pixels(file, int(side))).latent_dist.sample()
        return sample * vae.config.scaling_factor

    cached = encode() if arm == "modules" else None
    for _ in range(int(steps)):
        clock.begin()
        latents = encode() if cached is None else cached
        noise = torch.randn_like(latents)
        timesteps = torch.randint(noise_scheduler.config.num_train_timesteps, (1,))
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)
        ids = tokenizer(caption, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden = text_encoder(ids.input_ids)[0]
        loss = functional.mse_loss(unet(noisy, timesteps, hidden).sample, noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        clock.end()
    clock.report(numbers=sum(map(Tensor.numel, parameters)))


if __name__ == "__main__":
    main()
