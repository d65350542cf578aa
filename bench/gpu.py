"""Packs on an NVIDIA GPU, on the architecture of Stable Diffusion 1.5 with random weights.

`python -m bench.gpu` (15 minutes; no network, no weights; of this program's dependencies it needs
torch, transformers, diffusers, accelerate, peft, hydra-core, bitsandbytes and prodigyopt) trains
rank 32 at 512 pixels in bf16, batch size 1: samples a second and peak memory of packs of 1 to 32,
their share of the matrix rate that the card itself shows, the same by peft, probe pictures a
second, and two of the packs compiled. Writes results/gpu.json and .md. `--small` runs the same on
a tiny model, on whatever there is.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from evaluate.generation.generate import generate
from train.cli.app import configure_logging
from train.config.schema import NetworkConfig, TrialConfig
from train.loop.loss import diffusion_loss
from train.loop.optimizers import make_optimizer
from train.lora.adapter import Adapter
from train.models.base_model import BaseModel

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
SIZES = (1, 2, 4, 8, 16, 32)
COMPILED = (1, 8)  # each takes minutes to compile
SECONDS = 4.0  # of each measurement
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 1e-4}
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """What is measured: the real architecture, or a tiny one to see that the program runs."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    resolution: int
    network: NetworkConfig


REAL = Scale(
    unet={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
         "down_block_types": ("DownEncoderBlock2D",) * 4,
         "up_block_types": ("UpDecoderBlock2D",) * 4},
    text={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
          "num_hidden_layers": 12, "vocab_size": 49408},
    resolution=512,
    network=NetworkConfig(rank=32),
)  # fmt: skip
SMALL = Scale(
    unet={"sample_size": 8, "cross_attention_dim": 32, "attention_head_dim": 4,
          "block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8},
    vae={"block_out_channels": (16,) * 4, "norm_num_groups": 8, "latent_channels": 4,
         "down_block_types": ("DownEncoderBlock2D",) * 4,
         "up_block_types": ("UpDecoderBlock2D",) * 4},
    text={"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
          "num_hidden_layers": 2, "vocab_size": 100},
    resolution=64,
    network=NetworkConfig(rank=4),
)  # fmt: skip


class Tokenizer:
    """Every prompt is 77 times the same token: the work is that of real ones."""

    model_max_length = 77

    def __call__(self, prompts: list[str], **options: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=torch.ones(len(prompts), 77, dtype=torch.long))


def random_base(scale: Scale, device: torch.device, compiled: bool = False) -> BaseModel:
    """A base of random weights in bf16, made on the device."""
    with device:
        unet = UNet2DConditionModel(**scale.unet).to(torch.bfloat16)
        vae = AutoencoderKL(**scale.vae).to(torch.bfloat16)
        text = CLIPTextModel(CLIPTextConfig(**scale.text)).to(torch.bfloat16)
    parts: Any = SimpleNamespace(
        unet=unet, vae=vae, text_encoder=text, tokenizer=Tokenizer(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    )  # fmt: skip
    return BaseModel(parts, "random", lambda: "random", device, compiled)


def wait(device: torch.device) -> None:
    """Until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(step: Callable[[], object], made: int, device: torch.device) -> float:
    """Things a second of a step that makes so many."""
    for _ in range(2):
        step()
    wait(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        step()
        count += 1
        if count % 4 == 0:
            wait(device)
    wait(device)
    return count * made / (time.perf_counter() - began)


def matrix_rate(device: torch.device, side: int) -> float:
    """bf16 operations a second of the card's own best: large matrix products."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return rate(lambda: a @ b, 2 * side**3, device)


def batch(
    base: BaseModel, scale: Scale, rows: int
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Latents, noise, timesteps and text."""
    shape = (rows, *base.latent_shape(scale.resolution))
    latents, noise = (torch.randn(shape, device=base.device) for _ in range(2))
    timesteps = torch.randint(1000, (rows,), device=base.device)
    return latents, noise, timesteps, base.encode_text(["a photo"] * rows)


def pack_step(base: BaseModel, scale: Scale, size: int) -> Callable[[], None]:
    """A step of a pack, its optimizers' included."""
    random = torch.Generator().manual_seed(0)
    adapters = [base.adapters.create(scale.network, random).to(base.device) for _ in range(size)]
    config = TrialConfig(network=scale.network, optimizer=ADAMW)
    optimizers = [make_optimizer(config, adapter) for adapter in adapters]
    drawn = batch(base, scale, size)

    def step() -> None:
        with base.adapters.activated(adapters):
            diffusion_loss(base, *drawn).sum().backward()
        for adapter, optimizer in zip(adapters, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
            optimizer.step()
            adapter.zero_grad(set_to_none=True)

    return step


def peft_step(base: BaseModel, scale: Scale) -> Callable[[], None]:
    """The same for one trial, by diffusers and peft: LoRA in fp32, the rest under autocast."""
    unet = UNet2DConditionModel(**scale.unet).to(base.device, torch.bfloat16).requires_grad_(False)
    unet = unet.to(memory_format=torch.channels_last)
    names = {id(module): name for name, module in base.unet.named_modules()}
    keys = base.adapters.create(scale.network, torch.Generator()).down
    modules = [names[id(base.adapters.targets[key])] for key in keys]
    rank = scale.network.rank
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    latents, noise, timesteps, text = batch(base, scale, 1)

    def step() -> None:
        noisy = base.noise_scheduler.add_noise(latents, noise, timesteps).to(torch.bfloat16)
        with torch.autocast(base.device.type, torch.bfloat16):
            made = unet(noisy, timesteps, **text).sample
        (made.float() - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def operations(step: Callable[[], None]) -> float:
    """Floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def packs(base: BaseModel, scale: Scale, best: float, sizes: tuple[int, ...]) -> list[Row]:
    """A row for each size that fits."""
    rows: list[Row] = []
    for size in sizes:
        try:
            step = pack_step(base, scale, size)
            if base.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(base.device)
            began = time.perf_counter()
            step()
            wait(base.device)
            first = time.perf_counter() - began
            samples = rate(step, size, base.device)
            peak = torch.cuda.max_memory_allocated(base.device) if base.device.type == "cuda" else 0
            work = operations(step)
        except torch.OutOfMemoryError:
            log.info("a pack of %d does not fit", size)
            break
        rows.append({"pack": size, "samples_per_second": samples, "memory_gib": peak / 2**30,
                     "share_of_matrix_rate": samples / size * work / best,
                     "first_step_seconds": first})  # fmt: skip
        log.info("%s", rows[-1])
    return rows


def pictures(base: BaseModel, scale: Scale) -> list[Row]:
    """Probe pictures a second of 1 and 4 checkpoints, 32 probes each."""
    random, rows = torch.Generator().manual_seed(0), []
    for size in (1, 4):
        adapters: list[Adapter] = [
            base.adapters.create(scale.network, random).to(base.device) for _ in range(size)
        ]
        asked = (["a photo"] * 32, list(range(32)), scale.resolution, 20, 7.0)
        began = time.perf_counter()
        generate(base, adapters, *asked)
        seconds = time.perf_counter() - began
        rows.append({"checkpoints": size, "pictures_per_second": size * 32 / seconds})
        log.info("%s", rows[-1])
    return rows


def table(found: Row) -> str:
    """The result, for people."""
    lines = [f"# Packs on {found['card']}", "", "The UNet of Stable Diffusion 1.5, random weights, "
             "512 px, bf16, batch 1, rank 32, AdamW. Matrix rate of the card, measured: "
             f"{found['matrix_rate'] / 1e12:.0f} TFLOP/s. peft: {found['peft']:.2f} samples/s.", "",
             "| pack | samples/s | of one trial | of peft | share of the matrix rate | peak GiB | "
             "compiled: samples/s | its first step, s |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    compiled = {row["pack"]: row for row in found["compiled"]}
    for row in found["packs"]:
        samples, fast = row["samples_per_second"], compiled.get(row["pack"], {})
        one = found["packs"][0]["samples_per_second"]
        lines.append(
            f"| {row['pack']} | {samples:.2f} | {samples / one:.2f} x | "
            f"{samples / found['peft']:.2f} x | {row['share_of_matrix_rate']:.0%} | "
            f"{row['memory_gib']:.1f} | {fast.get('samples_per_second', 0):.2f} | "
            f"{fast.get('first_step_seconds', 0):.0f} |"
        )
    lines += ["", "| checkpoints scored together | probe pictures/s |", "|---|---|"]
    lines += [
        f"| {row['checkpoints']} | {row['pictures_per_second']:.2f} |" for row in found["pictures"]
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--output", default=RESULTS, type=Path, help="folder of the results")
    arguments = parser.parse_args()
    configure_logging()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not arguments.small:
        raise SystemExit("there is no GPU here; --small runs a tiny model on the CPU")
    scale = SMALL if arguments.small else REAL
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    best = matrix_rate(device, 512 if arguments.small else 8192)
    found: Row = {"card": card, "matrix_rate": best}
    base = random_base(scale, device)
    found["peft"] = rate(peft_step(base, scale), 1, device)
    found["packs"] = packs(base, scale, best, SIZES)
    found["pictures"] = pictures(base, scale)
    base = random_base(scale, device, compiled=True)
    found["compiled"] = packs(base, scale, best, COMPILED)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (arguments.output / "gpu.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
