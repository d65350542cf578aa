"""Builds optimizers and learning-rate schedules from their settings.

An optimizer itself is added in conf/optimizer/ and train/config/optimizer_arguments.py.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import (
    get_cosine_with_min_lr_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_wsd_schedule,
)

from train.config.schema import SchedulerConfig, TrialConfig, is_lr_free
from train.config_checks import SCHEDULER_ALIASES
from train.loop.construction_checks import optimizer_class
from train.loop.schedule import TrainingSchedule
from train.loop.weight_average import restored
from train.lora.adapter import TEXT_ENCODER, TEXT_ENCODER_1, TEXT_ENCODER_2, UNET, Adapter

log = logging.getLogger(__name__)
# Optimizers that treat every number by itself, or all of them as one, so that one long vector is as
# good as the matrices (8-bit states are scaled in blocks of 256 numbers, across matrices).
SHAPE_INDEPENDENT = {
    "SGD",
    "Adam",
    "AdamW",
    "AdamW8bit",
    "Lion",
    "Lion8bit",
    "Prodigy",
    "DAdaptAdam",
    "AdamWScheduleFree",
}

IMPLEMENTATIONS = {"fused", "foreach"}  # torch's implementations, which exclude each other


def make_optimizer(config: TrialConfig, adapter: Adapter) -> torch.optim.Optimizer:
    """The optimizer of one adapter; the text encoder's group may have its own learning rate.

    Optimizers that ignore shapes get the adapter's flat parameters: a few operations per step.
    All others get the matrices, whose gradients `Adapter.assign_gradients` assigns.
    """
    cls = optimizer_class(config.optimizer)
    arguments: dict[str, Any] = {k: v for k, v in config.optimizer.items() if k != "_target_"}
    arguments["lr"] = learning_rate(config.optimizer)
    if arguments["lr"] != (rate := config.optimizer["lr"]):
        log.warning("%s estimates its own step size: lr %g replaced by 1", cls.__name__, rate)
    if is_averaged(cls) and config.scheduler.name not in ("constant", "constant_with_warmup"):
        log.warning(
            "%s averages instead of using a schedule; it is made for scheduler=constant, not %s",
            cls.__name__, config.scheduler.name,
        )  # fmt: skip
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    if "fused" in inspect.signature(cls).parameters and not IMPLEMENTATIONS & arguments.keys():
        arguments["fused"] = True
    rates = {
        UNET: arguments["lr"],
        **text_encoder_rates(config.training.text_encoder_lr, arguments["lr"]),
    }
    flat = cls.__name__ in SHAPE_INDEPENDENT
    groups = [
        {"params": [adapter.flat[name]] if flat else adapter.shaped(name), "lr": lr}
        for name, lr in rates.items()
        if len(adapter.flat[name])
    ]
    with redirect_stdout(StringIO()):  # some print a banner
        optimizer: torch.optim.Optimizer = cls(groups, **arguments)
    if is_averaged(cls):
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def learning_rate(optimizer: Mapping[str, Any]) -> float:
    """The learning rate; always 1 for an LR-free optimizer."""
    return 1.0 if is_lr_free(str(optimizer["_target_"])) else float(optimizer["lr"])


def text_encoder_rates(setting: Any, rate: float) -> dict[str, float]:
    """The learning rate of each text encoder.

    Args:
        setting: one for all, or one for the first and one for the second; None: the UNet's `rate`.
    """
    first, second = setting if isinstance(setting, list) else (setting, setting)
    rates = {TEXT_ENCODER: first, TEXT_ENCODER_1: first, TEXT_ENCODER_2: second}
    return {name: rate if each is None else float(each) for name, each in rates.items()}


def is_averaged(cls: type) -> bool:
    """Whether an optimizer evaluates averaged weights, other than those that it trains."""
    return callable(getattr(cls, "train", None)) and callable(getattr(cls, "eval", None))


@contextmanager
def swapped_to_averaged_weights(
    optimizer: torch.optim.Optimizer, adapter: Adapter
) -> Iterator[None]:
    """Context manager: the adapter holds the weights to be saved.

    For a schedule-free optimizer these are averages (Defazio et al. 2024); afterwards training
    continues from the same bytes as before.
    """
    if not is_averaged(type(optimizer)):
        yield
        return
    with restored(adapter):
        optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            optimizer.train()  # type: ignore[attr-defined]


def make_scheduler(
    config: SchedulerConfig, optimizer: torch.optim.Optimizer, schedule: TrainingSchedule
) -> LRScheduler:
    """The learning-rate schedule over the optimizer's steps, from diffusers and transformers."""
    steps, warmup = schedule.steps, warmup_steps(config, schedule)
    name = SCHEDULER_ALIASES.get(config.name, config.name)
    if name != config.name:
        log.info("scheduler %s is read as %s", config.name, name)
    if warmup >= steps:
        log.warning("the warm-up takes %d steps, and the training has %d", warmup, steps)
    waves = config.num_cycles / 2  # kohya's meaning: each cycle falls and rises
    if name == "inverse_sqrt":
        return get_inverse_sqrt_schedule(optimizer, warmup)
    if name == "cosine_with_min_lr":
        return get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warmup, steps, waves, min_lr_rate=config.min_lr_ratio
        )
    if name == "warmup_stable_decay":
        decay = int(config.decay_ratio * steps)
        return get_wsd_schedule(
            optimizer, warmup, decay, num_training_steps=steps, num_cycles=waves,
            min_lr_ratio=config.min_lr_ratio,
        )  # fmt: skip
    return get_scheduler(
        "constant_with_warmup" if name == "constant" and warmup else name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=steps,
        num_cycles=config.num_cycles,
        power=config.power,
    )


def warmup_steps(config: SchedulerConfig, schedule: TrainingSchedule) -> int:
    """Warm-up in steps; the settings give it in steps, in epochs, or as a share of all steps.

    Rounded down to whole steps, as in kohya.
    """
    if config.warmup_steps:
        return config.warmup_steps
    if config.warmup_epochs:
        return int(config.warmup_epochs * schedule.steps_an_epoch)
    return int(config.warmup_ratio * schedule.steps)
