"""Optimizers and learning-rate schedules, made from their settings."""

from __future__ import annotations

import inspect
import logging
import math
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch.optim.lr_scheduler import LRScheduler

from train.adapter import TEXT_ENCODERS, UNET, Adapter
from train.checks import check_optimizer
from train.config import TrialConfig

log = logging.getLogger(__name__)
FIND_THEIR_OWN = {"Prodigy"}  # optimizers whose lr is a factor on the step size they find
# those that treat every number by itself, so that one long vector is as good as the matrices
ELEMENTWISE = {"SGD", "Adam", "AdamW", "AdamW8bit", "Lion", "Lion8bit", "Prodigy"}


def make_optimizer(config: TrialConfig, adapter: Adapter) -> torch.optim.Optimizer:
    """The optimizer of one adapter; the text encoder's part may have a learning rate of its own.

    Optimizers that know no shapes get the adapter's flat parameters: a few operations a step.
    All others get the matrices, whose gradients `Adapter.share_gradients` hands out.
    """
    cls = check_optimizer(config.optimizer)
    arguments: dict[str, Any] = {k: v for k, v in config.optimizer.items() if k != "_target_"}
    if cls.__name__ in FIND_THEIR_OWN and arguments["lr"] != 1.0:
        log.warning(
            "%s finds its own step size: lr %g replaced by 1", cls.__name__, arguments["lr"]
        )
        arguments["lr"] = 1.0
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    if "fused" in inspect.signature(cls).parameters:
        arguments.setdefault("fused", True)
    rates = {UNET: arguments["lr"]}
    rates |= dict.fromkeys(TEXT_ENCODERS, config.training.text_encoder_lr or arguments["lr"])
    whole = cls.__name__ in ELEMENTWISE
    groups = [
        {"params": [adapter.flat[name]] if whole else adapter.shaped(name), "lr": lr}
        for name, lr in rates.items()
        if len(adapter.flat[name])
    ]
    return cls(groups, **arguments)


def make_scheduler(
    config: TrialConfig, optimizer: torch.optim.Optimizer, steps: int
) -> LRScheduler:
    """The schedule over `steps` steps of the optimizer (diffusers' implementations)."""
    name, warmup = config.scheduler.name, math.ceil(config.scheduler.warmup * steps)
    return get_scheduler(
        "constant_with_warmup" if name == "constant" and warmup else name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=steps,
        num_cycles=config.scheduler.num_cycles,
        power=config.scheduler.power,
    )
