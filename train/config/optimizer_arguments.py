"""The optimizers of conf/optimizer and their arguments, checked without importing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from train.config.class_arguments import (
    FLAG,
    Argument,
    check_arguments,
    choice,
    number,
    optional,
    whole,
)
from train.config.ranges import SHARE, format_value
from train.config.schema import LEARNING_RATE, MAX_STEPS
from train.errors import ConfigError

LR = Argument(LEARNING_RATE, required=True)
DECAY = number(0, 100)
BETAS = Argument(SHARE, count=2)
EPS = number(1e-30, 1)
ONLY_FALSE = choice(False)  # true is rejected by the class, or makes no sense for a LoRA
BITSANDBYTES = {  # what all of its optimizers take
    "lr": LR,
    "betas": BETAS,
    "weight_decay": DECAY,
    "min_8bit_size": whole(0, 2**40),
    "is_paged": FLAG,
}
LR_FREE = {
    "lr": LR,
    "betas": BETAS,
    "eps": EPS,
    "weight_decay": DECAY,
    "decouple": FLAG,
    "use_bias_correction": FLAG,
    "d0": number(1e-12, 1),
    "growth_rate": number(1, math.inf),
    "fsdp_in_use": ONLY_FALSE,
}
OPTIMIZERS: Mapping[str, Mapping[str, Argument]] = {
    "torch.optim.AdamW": {
        "lr": LR,
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": DECAY,
        "amsgrad": FLAG,
        "maximize": ONLY_FALSE,
        "foreach": optional(FLAG),
        "capturable": ONLY_FALSE,
        "differentiable": ONLY_FALSE,
        "fused": optional(FLAG),
    },
    "bitsandbytes.optim.AdamW8bit": {
        **BITSANDBYTES,
        "eps": EPS,
        "amsgrad": ONLY_FALSE,
        "optim_bits": choice(32),
    },
    "bitsandbytes.optim.Lion": {**BITSANDBYTES, "optim_bits": choice(8, 32)},
    "bitsandbytes.optim.Lion8bit": BITSANDBYTES,
    "prodigyopt.Prodigy": {
        **LR_FREE,
        "beta3": optional(Argument(SHARE)),
        "safeguard_warmup": FLAG,
        "d_coef": number(1e-6, 1e6),
        "slice_p": whole(1, 10_000),
    },
    "dadaptation.DAdaptAdam": {**LR_FREE, "log_every": whole(0, MAX_STEPS)},
    "transformers.optimization.Adafactor": {
        "lr": LR,
        "eps": Argument(EPS.within, count=2),
        "clip_threshold": number(1e-6, 1e6),
        "decay_rate": number(-10, 0),
        "beta1": optional(Argument(SHARE)),
        "weight_decay": DECAY,
        "scale_parameter": FLAG,
        "relative_step": ONLY_FALSE,
        "warmup_init": ONLY_FALSE,
    },
    "schedulefree.AdamWScheduleFree": {
        "lr": LR,
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": DECAY,
        "warmup_steps": whole(0, MAX_STEPS),
        "r": number(0, 100),
        "weight_lr_power": number(0, 100),
        "foreach": optional(FLAG),
    },
}


def check_optimizer(optimizer: Mapping[str, Any]) -> None:
    """Rejects impossible settings of an optimizer, without importing its class.

    Checks that need the class itself are in `train.loop.construction_checks`.

    Args:
        optimizer: `_target_` (the dotted path of an optimizer class), `lr`, and its arguments.

    Raises:
        ConfigError: naming the first impossible setting.
    """
    check_arguments("optimizer", optimizer, OPTIMIZERS, "torch.optim.AdamW")
    if not LR.accepts(lr := optimizer.get("lr")):
        raise ConfigError(f"optimizer.lr: {format_value(lr)} must be {LR}")
