"""What is impossible in a training run's settings, found before any model is loaded."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from train.config import ConfigError, TrialConfig, suggestion
from train.data.buckets import framing_of

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
CACHES = ("memory", "disk", "off")


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
    _check_choice("base.precision", config.base.precision, PRECISIONS)
    _check_choice("base.speed", config.base.speed, SPEEDS)
    _check_choice("training.save_precision", config.training.save_precision, PRECISIONS)
    check_data(config)
    check_base_path(config.base.path)
    check_optimizer(config.optimizer)


def check_data(config: TrialConfig) -> None:
    """Refuses impossible settings of `data` and `cache`.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    data = config.data
    _check_choice("cache", config.cache, CACHES)
    _check_choice("data.latents", data.latents, ("sampled", "fixed"))
    _check_choice("data.on_error", data.on_error, ("stop", "skip"))
    for key in ("height", "min_bucket", "max_bucket", "bucket_step"):
        value = getattr(data, key)
        if value is not None and value <= 0:
            raise ConfigError(f"data.{key}: {value} must be greater than 0")
    if data.keep_tokens < 0:
        raise ConfigError(f"data.keep_tokens: {data.keep_tokens} must be 0 or more")
    if config.training.prior_loss_weight < 0:
        raise ConfigError("training.prior_loss_weight: must be 0 or more")
    framing = framing_of(data)
    if framing.buckets and framing.upscale and framing.least > framing.most:
        raise ConfigError(
            f"data.min_bucket: {framing.least} is more than data.max_bucket, {framing.most}"
        )
    if framing.buckets and framing.step > min(framing.resolution):
        raise ConfigError(f"data.bucket_step: {framing.step} is more than the resolution")
    if data.color_augmentation and config.cache != "off":
        raise ConfigError(
            "data.color_augmentation: changes the pictures each time, so their latents cannot be "
            "kept; set cache=off (slower), or leave it out"
        )


def check_base_path(path: str) -> None:
    """Raises a ConfigError for a pickle."""
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
