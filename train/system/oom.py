"""What to do where memory runs out: the remedies, in the order in which guides give them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from train.config.schema import EMBEDDED, TrialConfig
from train.data.images.buckets import FINEST, STEP
from train.validation import DEGRADE, MEMORY, OFF

log = logging.getLogger(__name__)
EIGHT_BIT = {
    "torch.optim.AdamW": "bitsandbytes.optim.AdamW8bit",
    "bitsandbytes.optim.AdamW": "bitsandbytes.optim.AdamW8bit",
    "torch.optim.Adam": "bitsandbytes.optim.Adam8bit",
    "bitsandbytes.optim.Lion": "bitsandbytes.optim.Lion8bit",
}
# what torch and CUDA's libraries say where they have no exception of their own for it
OUT = ("CUDA error: out of memory", "DefaultCPUAllocator: can't allocate", "STATUS_ALLOC_FAILED")
SMALLER = 0.75  # of the sides, when pictures are trained smaller
CONTEXT = 1e9  # bytes of a card that a process takes beside what torch counts; it is less
ARGUMENTS = ("lr", "betas", "eps", "weight_decay")  # that both kinds of an optimizer take


def _checkpointed(config: TrialConfig) -> TrialConfig:
    return replace(config, training=replace(config.training, gradient_checkpointing=True))


def _smaller(config: TrialConfig) -> TrialConfig:
    """About 3/4 of the resolution, where the data set and the length go by it alone.

    A dataset_config has sizes of its own; other buckets may have other batches, and max_steps would
    end in another epoch.
    """
    data = config.data
    if data.dataset_config or (data.buckets and config.training.max_steps):
        return config
    step = FINEST if config.base.path == EMBEDDED else STEP
    sides = data.resolution, data.height or data.resolution
    width, height = (int(side * SMALLER / step + 0.5) * step for side in sides)
    if not (0 < width < sides[0] and 0 < height < sides[1]):
        return config
    return replace(config, data=replace(data, resolution=width, height=data.height and height))


def _cached(config: TrialConfig) -> TrialConfig:
    """Latents in memory; those of colours that change, as a dataset_config may ask, cannot be."""
    data = config.data
    if config.cache != OFF or data.color_augmentation or data.dataset_config:
        return config
    return replace(config, cache=MEMORY)


def _eight_bit(config: TrialConfig) -> TrialConfig:
    target = EIGHT_BIT.get(config.optimizer["_target_"])
    if target is None:
        return config
    kept = {key: value for key, value in config.optimizer.items() if key in ARGUMENTS}
    return replace(config, optimizer={"_target_": target, **kept})


def _one_by_one(config: TrialConfig) -> TrialConfig:
    training = config.training
    accumulation = training.batch_size * training.gradient_accumulation
    return replace(
        config, training=replace(training, batch_size=1, gradient_accumulation=accumulation)
    )


# what `training.on_oom=degrade` does, in order; the names are kept in states and records
FALLBACKS: dict[str, Callable[[TrialConfig], TrialConfig]] = {
    "gradient_checkpointing": _checkpointed,
    "resolution": _smaller,
    "cached latents": _cached,
    "8-bit optimizer": _eight_bit,
    "batch_size 1": _one_by_one,
}


def apply_fallbacks(config: TrialConfig, remedies: Sequence[str]) -> TrialConfig:
    """The settings with these remedies applied."""
    for remedy in remedies:
        config = FALLBACKS[remedy](config)
    return config


def with_next_fallback(config: TrialConfig, remedies: tuple[str, ...]) -> tuple[str, ...] | None:
    """The remedies, and the next one that changes something; None: there is none, or none asked.

    Args:
        config: as the trial was asked for.
        remedies: that it has already.
    """
    if config.training.on_oom != DEGRADE:
        return None
    now = apply_fallbacks(config, remedies)
    for remedy, apply in FALLBACKS.items():
        if remedy not in remedies and apply(now) != now:
            log.warning(f"out of memory: going on with {remedy} ({_change(now, apply(now))})")
            return (*remedies, remedy)
    return None


def _change(old: TrialConfig, new: TrialConfig) -> str:
    """What differs in two settings, in words."""
    parts = [
        f"{group}.{key}={value}"
        for group in ("data", "training")
        for key, value in vars(getattr(new, group)).items()
        if value != getattr(getattr(old, group), key)
    ]
    if new.cache != old.cache:
        parts.append(f"cache={new.cache}")
    if new.optimizer != old.optimizer:
        parts.append(f"optimizer={new.optimizer['_target_']}, whose averages begin anew")
    return ", ".join(parts)


def advice(config: TrialConfig) -> str:
    """What helps where memory has run out, in the order of the guides."""
    training, target = config.training, config.optimizer["_target_"]
    eight = EIGHT_BIT.get(target, EIGHT_BIT["torch.optim.AdamW"]).rpartition(".")[2].lower()
    groups = _one_by_one(config).training.gradient_accumulation
    steps = {
        "training.gradient_checkpointing=true": training.gradient_checkpointing,
        f"a smaller data.resolution (now {config.data.resolution})": False,
        "cached latents (cache=memory or disk)": config.cache != OFF,
        f"an 8-bit optimizer (optimizer={eight})": "8bit" in target,
        f"training.batch_size=1 training.gradient_accumulation={groups}": training.batch_size == 1,
    }
    listed = [
        f"{number}. {words}{', which is so already' if so else ''}"
        for number, (words, so) in enumerate(steps.items(), start=1)
    ]
    said = f"out of memory; what helps, in this order: {'; '.join(listed)}"
    able = [
        str(n) for n, apply in enumerate(FALLBACKS.values(), start=1) if apply(config) != config
    ]
    if able and training.on_oom != DEGRADE:  # which has nothing left to do
        said += f". training.on_oom=degrade applies {', '.join(able)} by itself"
    return f"{said}. Checkpoints saved so far stay"


def is_oom(error: BaseException | None) -> bool:
    """Whether an error is that of a device, or of the machine, without memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT)


def memory_of_other_processes(device: torch.device) -> str:
    """How much of a card other processes hold, in words; empty where it is this one's alone."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device) - CONTEXT
    if others <= 0:
        return ""
    return (
        f"out of memory, and other processes hold about {others / 1e9:.1f} of the "
        f"{total / 1e9:.1f} GB of {device}"
    )
