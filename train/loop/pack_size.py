"""The number of trials that a device trains at once efficiently."""

from __future__ import annotations

import os

import torch
from torch.utils.flop_counter import FlopCounterMode

from train.config.schema import TrialConfig
from train.loop.loss import diffusion_loss
from train.models.base_model import BaseModel
from train.models.gradient_checkpointing import use_gradient_checkpointing

# operations per core in one forward pass: twice as many are a sixth faster
# (bench/results/packs.md), but trials that run at the same time cannot learn from each other
OPERATIONS_PER_CORE = 4e9
MAX_TRIALS = 16  # trials in a pack
MEMORY_SHARE = 0.85  # share of a GPU's free memory that a pack may take


def pack_size(base: BaseModel, config: TrialConfig, max_trials: int) -> int:
    """The size of a pack of trials with this config, from 1 to `most`.

    On a CPU, the number that keeps its cores busy, counted in operations, so that it is the same
    at every start; on a GPU, the number that fits, extrapolated from the memory of one and two.
    """
    max_trials = min(max_trials, MAX_TRIALS)
    if base.device.type != "cuda":
        rows = (os.cpu_count() or 1) * OPERATIONS_PER_CORE / operations(base, config)
        return max(1, min(max_trials, int(rows / config.training.batch_size)))
    if max_trials == 1:
        return 1
    one, two = (peak_memory(base, config, count) for count in (1, 2))
    free, _ = torch.cuda.mem_get_info(base.device)  # what other processes hold is not free
    room = (free + torch.cuda.memory_reserved(base.device)) * MEMORY_SHARE
    return max(1, min(max_trials, 1 + int((room - one) / max(1, two - one))))


def operations(base: BaseModel, config: TrialConfig) -> float:
    """Floating-point operations of the base's forward pass for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _loss(base, config, 1)
    return float(counter.get_total_flops())


def peak_memory(base: BaseModel, config: TrialConfig, trials: int) -> int:
    """Peak memory of one step of a pack, in bytes; the device's whole memory if it fails."""
    random = torch.Generator().manual_seed(0)
    adapters = [base.adapters.create(config.network, random).to(base.device) for _ in range(trials)]
    torch.cuda.reset_peak_memory_stats(base.device)
    use_gradient_checkpointing(base, config.training.gradient_checkpointing)
    try:
        with base.adapters.activated(adapters):
            _loss(base, config, trials * config.training.batch_size).sum().backward()
    except torch.OutOfMemoryError:
        return int(torch.cuda.get_device_properties(base.device).total_memory)
    state = sum(flat.numel() * 8 for adapter in adapters for flat in adapter.parameters())
    return torch.cuda.max_memory_allocated(base.device) + state  # an optimizer such as AdamW


def _loss(base: BaseModel, config: TrialConfig, rows: int) -> torch.Tensor:
    shape = base.latent_shape(config.data.resolution, config.data.height)
    latents = torch.zeros(rows, *shape, device=base.device)
    timesteps = torch.zeros(rows, dtype=torch.long, device=base.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and config.network.text_encoder):
        text = base.encode_text([""] * rows)
    return diffusion_loss(base, latents, latents, timesteps, text)
