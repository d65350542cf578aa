"""Packs on an NVIDIA GPU, on the architecture of Stable Diffusion 1.5 with random weights.

`python -m bench.gpu` (15 minutes; needs no network and no weights; of this program's dependencies
it needs torch, transformers, diffusers, accelerate, peft, hydra-core, bitsandbytes and prodigyopt)
trains rank 32 at 512 pixels in bf16, batch size 1. It measures samples per second and peak memory
of packs of 1 to 32 trials, their share of the GPU's measured matrix multiplication rate, the same
training with peft, probe images per second, and two of the packs compiled. It writes
results/gpu.json and .md. `--small` runs the same on a tiny model, on GPU or CPU.
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
PACK_SIZES = (1, 2, 4, 8, 16, 32)
COMPILED_SIZES = (1, 8)  # each takes minutes to compile
SECONDS = 4.0  # per measurement
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 1e-4}
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """Architecture and size of the model: the real one, or a tiny one to test this program."""

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
    """Encodes every prompt as 77 equal tokens, which costs as much as a real prompt."""

    model_max_length = 77

    def __call__(self, prompts: list[str], **options: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=torch.ones(len(prompts), 77, dtype=torch.long))


def random_base(scale: Scale, device: torch.device, compiled: bool = False) -> BaseModel:
    """Creates a base model with random bf16 weights on the device."""
    with device:
        unet = UNet2DConditionModel(**scale.unet).to(torch.bfloat16)
        vae = AutoencoderKL(**scale.vae).to(torch.bfloat16)
        text = CLIPTextModel(CLIPTextConfig(**scale.text)).to(torch.bfloat16)
    parts: Any = SimpleNamespace(
        unet=unet, vae=vae, text_encoder=text, tokenizer=Tokenizer(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    )  # fmt: skip
    return BaseModel(parts, "random", lambda: "random", device, compiled)


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_rate(step: Callable[[], object], items: int, device: torch.device) -> float:
    """Returns items per second of a step that produces this many."""
    for _ in range(2):
        step()
    synchronize(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        step()
        count += 1
        if count % 4 == 0:
            synchronize(device)
    synchronize(device)
    return count * items / (time.perf_counter() - began)


def matrix_rate(device: torch.device, side: int) -> float:
    """Returns bf16 operations per second in large matrix products, the GPU's practical peak."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return measure_rate(lambda: a @ b, 2 * side**3, device)


def random_batch(
    base: BaseModel, scale: Scale, rows: int
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Returns random latents, noise and timesteps, and text conditioning."""
    shape = (rows, *base.latent_shape(scale.resolution))
    latents, noise = (torch.randn(shape, device=base.device) for _ in range(2))
    timesteps = torch.randint(1000, (rows,), device=base.device)
    return latents, noise, timesteps, base.encode_text(["a photo"] * rows)


def pack_step(base: BaseModel, scale: Scale, size: int) -> Callable[[], None]:
    """Returns a training step of a pack, with the steps of its optimizers."""
    random = torch.Generator().manual_seed(0)
    adapters = [base.adapters.create(scale.network, random).to(base.device) for _ in range(size)]
    config = TrialConfig(network=scale.network, optimizer=ADAMW)
    optimizers = [make_optimizer(config, adapter) for adapter in adapters]
    batch = random_batch(base, scale, size)

    def step() -> None:
        with base.adapters.activated(adapters):
            diffusion_loss(base, *batch).sum().backward()
        for adapter, optimizer in zip(adapters, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
            optimizer.step()
            adapter.zero_grad(set_to_none=True)

    return step


def peft_step(base: BaseModel, scale: Scale) -> Callable[[], None]:
    """Returns the step of one trial with diffusers and peft: fp32 LoRA, autocast for the rest."""
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
    latents, noise, timesteps, text = random_batch(base, scale, 1)

    def step() -> None:
        noisy = base.noise_scheduler.add_noise(latents, noise, timesteps).to(torch.bfloat16)
        with torch.autocast(base.device.type, torch.bfloat16):
            prediction = unet(noisy, timesteps, **text).sample
        (prediction.float() - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def count_flops(step: Callable[[], None]) -> float:
    """Returns the number of floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def measure_packs(
    base: BaseModel, scale: Scale, peak_rate: float, sizes: tuple[int, ...]
) -> list[Row]:
    """Returns a row for each pack size that fits into memory."""
    rows: list[Row] = []
    for size in sizes:
        try:
            step = pack_step(base, scale, size)
            if base.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(base.device)
            began = time.perf_counter()
            step()
            synchronize(base.device)
            first = time.perf_counter() - began
            samples = measure_rate(step, size, base.device)
            peak = torch.cuda.max_memory_allocated(base.device) if base.device.type == "cuda" else 0
            flops = count_flops(step)
        except torch.OutOfMemoryError:
            log.info("a pack of %d does not fit into memory", size)
            break
        rows.append({"pack": size, "samples_per_second": samples, "memory_gib": peak / 2**30,
                     "share_of_matrix_rate": samples / size * flops / peak_rate,
                     "first_step_seconds": first})  # fmt: skip
        log.info("%s", rows[-1])
    return rows


def measure_generation(base: BaseModel, scale: Scale) -> list[Row]:
    """Returns probe images per second of 1 and 4 checkpoints, with 32 probes each."""
    random, rows = torch.Generator().manual_seed(0), []
    for size in (1, 4):
        adapters: list[Adapter] = [
            base.adapters.create(scale.network, random).to(base.device) for _ in range(size)
        ]
        arguments = (["a photo"] * 32, list(range(32)), scale.resolution, 20, 7.0)
        began = time.perf_counter()
        generate(base, adapters, *arguments)
        seconds = time.perf_counter() - began
        rows.append({"checkpoints": size, "pictures_per_second": size * 32 / seconds})
        log.info("%s", rows[-1])
    return rows


def table(report: Row) -> str:
    """Formats the results as Markdown."""
    lines = [f"# Packs on {report['card']}", "",
             "The UNet of Stable Diffusion 1.5, random weights, "
             "512 px, bf16, batch size 1, rank 32, AdamW. Measured matrix rate of the GPU: "
             f"{report['matrix_rate'] / 1e12:.0f} TFLOP/s. "
             f"peft: {report['peft']:.2f} samples/s.", "",
             "| pack | samples/s | of one trial | of peft | share of the matrix rate | peak GiB | "
             "compiled: samples/s | compiled: first step, s |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    compiled = {row["pack"]: row for row in report["compiled"]}
    for row in report["packs"]:
        samples, fast = row["samples_per_second"], compiled.get(row["pack"], {})
        one = report["packs"][0]["samples_per_second"]
        lines.append(
            f"| {row['pack']} | {samples:.2f} | {samples / one:.2f} x | "
            f"{samples / report['peft']:.2f} x | {row['share_of_matrix_rate']:.0%} | "
            f"{row['memory_gib']:.1f} | {fast.get('samples_per_second', 0):.2f} | "
            f"{fast.get('first_step_seconds', 0):.0f} |"
        )
    lines += ["", "| checkpoints scored together | probe images/s |", "|---|---|"]
    lines += [
        f"| {row['checkpoints']} | {row['pictures_per_second']:.2f} |" for row in report["pictures"]
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="use a tiny model, to test this program"
    )
    parser.add_argument("--output", default=RESULTS, type=Path, help="folder for the results")
    arguments = parser.parse_args()
    configure_logging()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not arguments.small:
        raise SystemExit("no GPU found; --small runs a tiny model on the CPU")
    scale = SMALL if arguments.small else REAL
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    peak_rate = matrix_rate(device, 512 if arguments.small else 8192)
    report: Row = {"card": card, "matrix_rate": peak_rate}
    base = random_base(scale, device)
    report["peft"] = measure_rate(peft_step(base, scale), 1, device)
    report["packs"] = measure_packs(base, scale, peak_rate, PACK_SIZES)
    report["pictures"] = measure_generation(base, scale)
    base = random_base(scale, device, compiled=True)
    report["compiled"] = measure_packs(base, scale, peak_rate, COMPILED_SIZES)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (arguments.output / "gpu.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
