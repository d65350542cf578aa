"""Optimizers and learning-rate schedules, made from their settings."""

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
from train.loop.construction_checks import optimizer_class
from train.loop.schedule import TrainingSchedule
from train.lora.adapter import TEXT_ENCODER, TEXT_ENCODER_1, TEXT_ENCODER_2, UNET, Adapter
from train.validation import SCHEDULER_ALIASES

log = logging.getLogger(__name__)
# those that treat every number by itself, or all of them as one, so that one long vector is as
# good as the matrices (8-bit states are scaled by blocks of 256 numbers, whoever they belong to)
SHAPELESS = {
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

KINDS = {"fused", "foreach"}  # of torch's own: one excludes the other


def make_optimizer(config: TrialConfig, adapter: Adapter) -> torch.optim.Optimizer:
    """The optimizer of one adapter; the text encoder's part may have a learning rate of its own.

    Optimizers that know no shapes get the adapter's flat parameters: a few operations a step.
    All others get the matrices, whose gradients `Adapter.share_gradients` hands out.
    """
    cls = optimizer_class(config.optimizer)
    arguments: dict[str, Any] = {k: v for k, v in config.optimizer.items() if k != "_target_"}
    arguments["lr"] = learning_rate(config.optimizer)
    if arguments["lr"] != (asked := config.optimizer["lr"]):
        log.warning("%s finds its own step size: lr %g replaced by 1", cls.__name__, asked)
    if is_averaged(cls) and config.scheduler.name not in ("constant", "constant_with_warmup"):
        log.warning(
            "%s averages in place of a schedule; scheduler=constant is what it is made for, not %s",
            cls.__name__, config.scheduler.name,
        )  # fmt: skip
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    if "fused" in inspect.signature(cls).parameters and not KINDS & arguments.keys():
        arguments["fused"] = True
    rates = {UNET: arguments["lr"], **text_rates(config.training.text_encoder_lr, arguments["lr"])}
    whole = cls.__name__ in SHAPELESS
    groups = [
        {"params": [adapter.flat[name]] if whole else adapter.shaped(name), "lr": lr}
        for name, lr in rates.items()
        if len(adapter.flat[name])
    ]
    with redirect_stdout(StringIO()):  # some greet
        optimizer: torch.optim.Optimizer = cls(groups, **arguments)
    if is_averaged(cls):
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def learning_rate(optimizer: Mapping[str, Any]) -> float:
    """What is trained with: 1 where an optimizer finds its step size itself, whatever is said."""
    return 1.0 if is_lr_free(str(optimizer["_target_"])) else float(optimizer["lr"])


def text_rates(given: Any, rate: float) -> dict[str, float]:
    """The learning rate of each text encoder.

    Args:
        given: for all of them, or for the first and the second; None: as the UNet's, `rate`.
    """
    first, second = given if isinstance(given, list) else (given, given)
    rates = {TEXT_ENCODER: first, TEXT_ENCODER_1: first, TEXT_ENCODER_2: second}
    return {name: rate if own is None else float(own) for name, own in rates.items()}


def is_averaged(cls: type) -> bool:
    """Whether an optimizer trains on other weights than those that are its result."""
    return callable(getattr(cls, "train", None)) and callable(getattr(cls, "eval", None))


@contextmanager
def swapped_to_averaged_weights(
    optimizer: torch.optim.Optimizer, adapter: Adapter
) -> Iterator[None]:
    """Within this context the weights are the optimizer's result, to be saved.

    For a schedule-free optimizer these are averages (Defazio et al. 2024); afterwards training
    goes on from the very bytes that it was at.
    """
    if not is_averaged(type(optimizer)):
        yield
        return
    before = {name: flat.detach().clone() for name, flat in adapter.flat.items()}
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for name, flat in adapter.flat.items():
                flat.copy_(before[name])


def make_scheduler(
    config: SchedulerConfig, optimizer: torch.optim.Optimizer, course: TrainingSchedule
) -> LRScheduler:
    """The schedule over the steps of the optimizer (diffusers' and transformers' functions)."""
    steps, warmup = course.steps, warmup_steps(config, course)
    name = SCHEDULER_ALIASES.get(config.name, config.name)
    if name != config.name:
        log.info("scheduler %s is read as %s", config.name, name)
    if warmup >= steps:
        log.warning("the warm-up takes %d steps, and the training has %d", warmup, steps)
    waves = config.num_cycles / 2  # as kohya reads it: each falls and rises
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


def warmup_steps(config: SchedulerConfig, course: TrainingSchedule) -> int:
    """Steps of the warm-up, however it is given: as steps, epochs, or a share of all steps.

    What is no whole number of steps is rounded down, as kohya does.
    """
    if config.warmup_steps:
        return config.warmup_steps
    if config.warmup_epochs:
        return int(config.warmup_epochs * course.steps_an_epoch)
    return int(config.warmup_ratio * course.steps)
