"""What to do where memory runs out: the remedies, in the order in which guides give them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from train.checks import ADAPT
from train.config import TrialConfig

log = logging.getLogger(__name__)
EIGHT_BIT = {
    "torch.optim.AdamW": "bitsandbytes.optim.AdamW8bit",
    "bitsandbytes.optim.AdamW": "bitsandbytes.optim.AdamW8bit",
    "torch.optim.Adam": "bitsandbytes.optim.Adam8bit",
    "bitsandbytes.optim.Lion": "bitsandbytes.optim.Lion8bit",
}
# what torch and CUDA's libraries say where they have no exception of their own for it
OUT = ("CUDA error: out of memory", "DefaultCPUAllocator: can't allocate", "STATUS_ALLOC_FAILED")
ARGUMENTS = ("lr", "betas", "eps", "weight_decay")  # that both kinds of an optimizer take


def _checkpointed(config: TrialConfig) -> TrialConfig:
    return replace(config, training=replace(config.training, gradient_checkpointing=True))


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


# what `training.oom=adapt` does, in order; the names are kept in states and records
REMEDIES: dict[str, Callable[[TrialConfig], TrialConfig]] = {
    "gradient_checkpointing": _checkpointed,
    "8-bit optimizer": _eight_bit,
    "batch_size 1": _one_by_one,
}


def adapted(config: TrialConfig, remedies: Sequence[str]) -> TrialConfig:
    """The settings with these remedies applied."""
    for remedy in remedies:
        config = REMEDIES[remedy](config)
    return config


def with_next_remedy(config: TrialConfig, remedies: tuple[str, ...]) -> tuple[str, ...] | None:
    """The remedies, and the next one that changes something; None: there is none, or none asked.

    Args:
        config: as the trial was asked for.
        remedies: that it has already.
    """
    if config.training.oom != ADAPT:
        return None
    now = adapted(config, remedies)
    for remedy, apply in REMEDIES.items():
        if remedy not in remedies and apply(now) != now:
            log.warning(f"out of memory: going on with {remedy} ({_change(now, apply(now))})")
            return (*remedies, remedy)
    return None


def _change(old: TrialConfig, new: TrialConfig) -> str:
    """What differs in two settings, in words."""
    parts = [
        f"training.{key}={value}"
        for key, value in vars(new.training).items()
        if value != getattr(old.training, key)
    ]
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
        "cached latents (cache=memory or disk)": False,
        f"an 8-bit optimizer (optimizer={eight})": "8bit" in target,
        f"training.batch_size=1 training.gradient_accumulation={groups}": training.batch_size == 1,
    }
    listed = [
        f"{number}. {words}{', which is so already' if so else ''}"
        for number, (words, so) in enumerate(steps.items(), start=1)
    ]
    return (
        "out of memory; what helps, in this order: "
        + "; ".join(listed)
        + ". training.oom=adapt applies 1, 4 and 5 by itself; checkpoints saved so far stay"
    )


def ran_out(error: BaseException | None) -> bool:
    """Whether an error is that of a device, or of the machine, without memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT)
