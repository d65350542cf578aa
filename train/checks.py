"""What is impossible in a training run's settings, found before any model is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from train.config import BaseConfig, ConfigError, TrialConfig, suggestion

SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
)
PRECISIONS = ("fp32", "bf16", "fp16")
SPEEDS = ("eager", "compile")
ATTENTIONS = ("sdpa", "xformers")
PREDICTIONS = ("auto", "epsilon", "v_prediction")


def check_trial(config: TrialConfig) -> None:
    """Refuses impossible combinations, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    positive = {
        "network.rank": config.network.rank,
        "data.repeats": config.data.repeats,
        "data.resolution": config.data.resolution,
        "training.epochs": config.training.epochs,
        "training.batch_size": config.training.batch_size,
        "training.gradient_accumulation": config.training.gradient_accumulation,
        "training.save_every": config.training.save_every,
        "training.max_grad_norm": config.training.max_grad_norm,
        "scheduler.num_cycles": config.scheduler.num_cycles,
    }
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key}: {value} must be greater than 0")
    if config.network.conv_rank < 0:
        raise ConfigError(f"network.conv_rank: {config.network.conv_rank} must be 0 (off) or more")
    if config.network.conv_alpha is not None and not config.network.conv_rank:
        raise ConfigError("network.conv_alpha: needs network.conv_rank > 0")
    if config.training.text_encoder_lr is not None and not config.network.text_encoder:
        raise ConfigError("training.text_encoder_lr: needs network.text_encoder=true")
    shares = {
        "data.validation_fraction": config.data.validation_fraction,
        "network.dropout": config.network.dropout,
        "training.caption_dropout": config.training.caption_dropout,
        "scheduler.warmup": config.scheduler.warmup,
    }
    for key, value in shares.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{key}: {value} must be from 0 to below 1")
    if not config.data.trigger.strip():
        raise ConfigError("data.trigger: must name the subject, for example 'sks person'")
    _check_choice("scheduler.name", config.scheduler.name, SCHEDULERS)
    _check_choice("training.save_precision", config.training.save_precision, PRECISIONS)
    check_base(config.base)
    check_optimizer(config.optimizer)


def check_base(base: BaseConfig) -> None:
    """Refuses what cannot be loaded, before anything is.

    Raises:
        ConfigError: a pickle, an unknown choice, or a package that is not installed.
    """
    _check_path(base.path)
    _check_choice("base.precision", base.precision, PRECISIONS)
    _check_choice("base.speed", base.speed, SPEEDS)
    _check_choice("base.attention", base.attention, ATTENTIONS)
    _check_choice("base.prediction", base.prediction, PREDICTIONS)
    if base.clip_skip < 1:
        raise ConfigError(f"base.clip_skip: {base.clip_skip} must be 1 (the last layer) or more")
    if base.attention == "xformers" and importlib.util.find_spec("xformers") is None:
        raise ConfigError(
            "base.attention: xformers is not installed (pip install xformers, or take sdpa, "
            "which comes with torch)"
        )
    if base.attention == "xformers" and base.device == "cpu":
        raise ConfigError("base.attention: xformers needs a CUDA device; take sdpa on the CPU")


def _check_path(path: str) -> None:
    if Path(path).suffix in {".ckpt", ".pt", ".pth", ".bin"}:
        raise ConfigError(
            f"base.path: {path} is a pickle, which can run code when loaded; "
            "give its .safetensors version, or convert it with diffusers"
        )


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = suggestion(value, list(choices))
        raise ConfigError(f"{key}: {value!r} is none of {', '.join(choices)}{near}")


def check_optimizer(optimizer: dict[str, Any]) -> type:
    """The optimizer's class, after its arguments are checked against its signature.

    Args:
        optimizer: `_target_` (the dotted path of a torch optimizer class), `lr`, and arguments.

    Raises:
        ConfigError: no such class, an argument that it does not take, or no positive `lr`.
    """
    target = str(optimizer.get("_target_", ""))
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"optimizer._target_: there is no class {target!r}") from None
    arguments = {key: value for key, value in optimizer.items() if key != "_target_"}
    accepted = inspect.signature(cls).parameters
    for key in arguments:
        if key not in accepted:
            raise ConfigError(
                f"optimizer.{key}: {name} does not take it{suggestion(key, list(accepted))}"
            )
    lr = arguments.get("lr")
    if not isinstance(lr, int | float) or lr <= 0:
        raise ConfigError(f"optimizer.lr: {lr!r} must be a number greater than 0")
    return cls
