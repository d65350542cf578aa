"""Fallbacks and advice for running out of memory, in the order that guides recommend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from train.config.schema import EMBEDDED, TrialConfig
from train.config_checks import DEGRADE, MEMORY, OFF
from train.data.images.buckets import DEFAULT_STEP, MIN_STEP

log = logging.getLogger(__name__)
EIGHT_BIT = {
    "torch.optim.AdamW": "bitsandbytes.optim.AdamW8bit",
    "bitsandbytes.optim.AdamW": "bitsandbytes.optim.AdamW8bit",
    "torch.optim.Adam": "bitsandbytes.optim.Adam8bit",
    "bitsandbytes.optim.Lion": "bitsandbytes.optim.Lion8bit",
}
# messages of torch and CUDA's libraries that have no exception of their own
OOM_MESSAGES = (
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate",
    "STATUS_ALLOC_FAILED",
)
RESOLUTION_FACTOR = 0.75  # factor of the sides for smaller images
CONTEXT_BYTES = 1e9  # upper bound of the bytes that a process takes on a card besides torch's own
SHARED_ARGUMENTS = (
    "lr",
    "betas",
    "eps",
    "weight_decay",
)  # accepted by both versions of an optimizer


def _checkpointed(config: TrialConfig) -> TrialConfig:
    return replace(config, training=replace(config.training, gradient_checkpointing=True))


def _smaller(config: TrialConfig) -> TrialConfig:
    """About 3/4 of the resolution, if the dataset and the length depend on nothing else.

    A dataset_config has its own sizes; other buckets may have other batches, and max_steps would
    then end in another epoch.
    """
    data = config.data
    if data.dataset_config or (data.buckets and config.training.max_steps):
        return config
    step = MIN_STEP if config.base.path == EMBEDDED else DEFAULT_STEP
    sides = data.resolution, data.height or data.resolution
    width, height = (int(side * RESOLUTION_FACTOR / step + 0.5) * step for side in sides)
    if not (0 < width < sides[0] and 0 < height < sides[1]):
        return config
    return replace(config, data=replace(data, resolution=width, height=data.height and height))


def _cached(config: TrialConfig) -> TrialConfig:
    """Latents in memory, unless colors change, which a dataset_config may ask for."""
    data = config.data
    if config.cache != OFF or data.color_augmentation or data.dataset_config:
        return config
    return replace(config, cache=MEMORY)


def _eight_bit(config: TrialConfig) -> TrialConfig:
    target = EIGHT_BIT.get(config.optimizer["_target_"])
    if target is None:
        return config
    arguments = {key: value for key, value in config.optimizer.items() if key in SHARED_ARGUMENTS}
    return replace(config, optimizer={"_target_": target, **arguments})


def _accumulated(config: TrialConfig) -> TrialConfig:
    training = config.training
    accumulation = training.batch_size * training.gradient_accumulation
    return replace(
        config, training=replace(training, batch_size=1, gradient_accumulation=accumulation)
    )


# the fallbacks of `training.on_oom=degrade`, in order; their names are in states and records
FALLBACKS: dict[str, Callable[[TrialConfig], TrialConfig]] = {
    "gradient_checkpointing": _checkpointed,
    "resolution": _smaller,
    "cached latents": _cached,
    "8-bit optimizer": _eight_bit,
    "batch_size 1": _accumulated,
}


def apply_fallbacks(config: TrialConfig, fallbacks: Sequence[str]) -> TrialConfig:
    """The settings with these fallbacks applied."""
    for fallback in fallbacks:
        config = FALLBACKS[fallback](config)
    return config


def with_next_fallback(config: TrialConfig, fallbacks: tuple[str, ...]) -> tuple[str, ...] | None:
    """The fallbacks plus the next one that has an effect; None if there is none, or not allowed.

    Args:
        config: the trial's original settings.
        fallbacks: that are applied already.
    """
    if config.training.on_oom != DEGRADE:
        return None
    degraded = apply_fallbacks(config, fallbacks)
    for fallback, apply in FALLBACKS.items():
        if fallback not in fallbacks and apply(degraded) != degraded:
            log.warning(
                f"out of memory: continuing with {fallback} ({_change(degraded, apply(degraded))})"
            )
            return (*fallbacks, fallback)
    return None


def _change(old: TrialConfig, new: TrialConfig) -> str:
    """The difference of two settings, in words."""
    parts = [
        f"{group}.{key}={value}"
        for group in ("data", "training")
        for key, value in vars(getattr(new, group)).items()
        if value != getattr(getattr(old, group), key)
    ]
    if new.cache != old.cache:
        parts.append(f"cache={new.cache}")
    if new.optimizer != old.optimizer:
        parts.append(f"optimizer={new.optimizer['_target_']}, whose moment estimates start over")
    return ", ".join(parts)


def advice(config: TrialConfig) -> str:
    """What helps if memory has run out, in the order that guides recommend."""
    training, target = config.training, config.optimizer["_target_"]
    eight_bit = EIGHT_BIT.get(target, EIGHT_BIT["torch.optim.AdamW"]).rpartition(".")[2].lower()
    groups = _accumulated(config).training.gradient_accumulation
    steps = {
        "training.gradient_checkpointing=true": training.gradient_checkpointing,
        f"a smaller data.resolution (now {config.data.resolution})": False,
        "cached latents (cache=memory or disk)": config.cache != OFF,
        f"an 8-bit optimizer (optimizer={eight_bit})": "8bit" in target,
        f"training.batch_size=1 training.gradient_accumulation={groups}": training.batch_size == 1,
    }
    numbered = [
        f"{number}. {words}{', already set' if done else ''}"
        for number, (words, done) in enumerate(steps.items(), start=1)
    ]
    message = f"out of memory; what helps, in this order: {'; '.join(numbered)}"
    applicable = [
        str(n) for n, apply in enumerate(FALLBACKS.values(), start=1) if apply(config) != config
    ]
    if applicable and training.on_oom != DEGRADE:  # which has nothing left to do
        message += f". training.on_oom=degrade applies {', '.join(applicable)} automatically"
    return f"{message}. Checkpoints saved so far stay"


def is_oom(error: BaseException | None) -> bool:
    """Whether an error means that a device, or the machine, has run out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OOM_MESSAGES)


def memory_of_other_processes(device: torch.device) -> str:
    """The memory of a card that other processes hold, in words; empty if they hold none."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    other_bytes = total - free - torch.cuda.memory_reserved(device) - CONTEXT_BYTES
    if other_bytes <= 0:
        return ""
    return (
        f"out of memory, and other processes hold about {other_bytes / 1e9:.1f} of the "
        f"{total / 1e9:.1f} GB of {device}"
    )
