"""What is impossible in a training run's settings, found before any model is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from train.config import (
    BaseConfig,
    ConfigError,
    NetworkConfig,
    SchedulerConfig,
    TrainConfig,
    TrainingConfig,
    TrialConfig,
    cause,
    finds_its_own,
    suggestion,
)
from train.data.buckets import framing_of

SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "cosine_with_min_lr",
    "inverse_sqrt",
    "warmup_stable_decay",
)
SCHEDULER_ALIASES = {"cosine_with_restarting": "cosine_with_restarts"}  # as some guides write it
WARM_UPS = ("warmup", "warmup_steps", "warmup_epochs")  # of which one may be given
HIGHEST_RANK = 320  # the widest matrices of Stable Diffusion 1.x have no more directions
PRECISIONS = ("fp32", "bf16", "fp16")
SPEEDS = ("eager", "compile")
CACHES = MEMORY, DISK, OFF = "memory", "disk", "off"
ATTENTIONS = ("sdpa", "xformers")
PREDICTIONS = ("auto", "epsilon", "v_prediction")
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}
OUT_OF_MEMORY = STOP, ADAPT = "stop", "adapt"
RESUME = RESUME_AUTO, RESUME_OFF = "auto", "off"


def check_trial(config: TrialConfig) -> None:
    """Refuses impossible combinations, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    _check_data_and_base(config)
    _check_network(config.network)
    _check_scheduler(config.scheduler)
    _check_training(config.training)
    if config.training.text_encoder_lr is not None and not config.network.text_encoder:
        raise ConfigError("training.text_encoder_lr: needs network.text_encoder=true")
    cls = check_optimizer(config.optimizer)
    if finds_its_own(cls.__name__) and config.training.text_encoder_lr not in (None, 1.0):
        raise ConfigError(
            f"training.text_encoder_lr: {cls.__name__} finds one step size for all; leave it null"
        )


def _check_data_and_base(config: TrialConfig) -> None:
    _check_positive("data", config.data, ("repeats", "resolution"))
    _check_not_negative("data", config.data, ("few",))
    _check_shares("data", config.data, ("validation_fraction",))
    if not config.data.trigger.strip():
        raise ConfigError("data.trigger: must name the subject, for example 'sks person'")
    check_data(config)
    check_base(config.base)


def _check_network(network: NetworkConfig) -> None:
    _check_positive("network", network, ("rank", "alpha", "alpha_ratio", "conv_alpha"))
    _check_not_negative("network", network, ("conv_rank",))
    _check_shares("network", network, ("dropout",))
    for key in ("rank", "conv_rank"):
        if getattr(network, key) > HIGHEST_RANK:
            raise ConfigError(
                f"network.{key}: {getattr(network, key)} must be {HIGHEST_RANK} or less"
            )
    if network.conv_alpha is not None and not network.conv_rank:
        raise ConfigError("network.conv_alpha: needs network.conv_rank > 0")
    for key in ("alpha", "conv_alpha"):
        if network.alpha_ratio is not None and getattr(network, key) is not None:
            raise ConfigError(f"network.{key}: is given by network.alpha_ratio too; leave one null")


def _check_scheduler(scheduler: SchedulerConfig) -> None:
    check_choice("scheduler.name", scheduler.name, (*SCHEDULERS, *SCHEDULER_ALIASES))
    _check_positive("scheduler", scheduler, ("num_cycles", "power"))
    _check_not_negative("scheduler", scheduler, ("warmup_steps", "warmup_epochs"))
    _check_shares("scheduler", scheduler, ("warmup", "min_lr_ratio", "decay"))
    given = [key for key in WARM_UPS if getattr(scheduler, key)]
    if len(given) > 1:
        raise ConfigError(
            f"scheduler.{given[1]}: scheduler.{given[0]} is given too; one warm-up is enough"
        )
    if scheduler.warmup + scheduler.decay > 1 and scheduler.name == "warmup_stable_decay":
        raise ConfigError("scheduler.decay: together with scheduler.warmup it is more than all")


def _check_training(training: TrainingConfig) -> None:
    _check_positive(
        "training",
        training,
        (
            "epochs",
            "max_steps",
            "batch_size",
            "gradient_accumulation",
            "save_every",
            "keep_last",
            "min_snr_gamma",
            "text_encoder_lr",
        ),
    )
    _check_not_negative(
        "training", training, ("max_grad_norm", "prior_loss_weight", "state_minutes")
    )
    _check_shares("training", training, ("caption_dropout", "noise_offset"))
    check_choice("training.save_precision", training.save_precision, PRECISIONS)
    check_choice("training.oom", training.oom, OUT_OF_MEMORY)


def _check_positive(part: str, config: object, keys: tuple[str, ...]) -> None:
    for key in keys:
        value = getattr(config, key)
        if value is not None and not value > 0:
            raise ConfigError(f"{part}.{key}: {value} must be greater than 0")


def _check_not_negative(part: str, config: object, keys: tuple[str, ...]) -> None:
    for key in keys:
        value = getattr(config, key)
        if value is not None and not value >= 0:
            raise ConfigError(f"{part}.{key}: {value} must be 0 (off) or more")


def _check_shares(part: str, config: object, keys: tuple[str, ...]) -> None:
    for key in keys:
        if not 0 <= getattr(config, key) < 1:
            raise ConfigError(f"{part}.{key}: {getattr(config, key)} must be from 0 to below 1")


def check_base(base: BaseConfig) -> None:
    """Refuses what cannot be loaded, before anything is.

    Raises:
        ConfigError: a pickle, an unknown choice, or a package that is not installed.
    """
    _check_path(base.path)
    check_choice("base.precision", base.precision, PRECISIONS)
    check_choice("base.speed", base.speed, SPEEDS)
    check_choice("base.attention", base.attention, ATTENTIONS)
    check_choice("base.prediction", base.prediction, PREDICTIONS)
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
    file = Path(path).expanduser()
    if file.suffix.lower() in PICKLES or (file.is_file() and _begins_as_pickle(file)):
        raise ConfigError(
            f"base.path: {path} is a pickle, which can run code when loaded; "
            "give its .safetensors version, or convert it with diffusers"
        )


def _begins_as_pickle(file: Path) -> bool:
    """Whether a file is a pickle or a zip around one, as torch.save writes, whatever its name."""
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
    except OSError:  # whoever loads it says why
        return False
    # a safetensors file begins with the length of its header, in 8 bytes that may be any
    return head.startswith((b"\x80", b"PK\x03\x04")) and not head.endswith(b"{")


def check_data(config: TrialConfig) -> None:
    """Refuses impossible settings of `data` and `cache`.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    data = config.data
    check_choice("cache", config.cache, CACHES)
    check_choice("data.latents", data.latents, ("sampled", "fixed"))
    check_choice("data.on_error", data.on_error, ("stop", "skip"))
    for key in ("height", "min_bucket", "max_bucket", "bucket_step"):
        value = getattr(data, key)
        if value is not None and value <= 0:
            raise ConfigError(f"data.{key}: {value} must be greater than 0")
    if data.keep_tokens < 0:
        raise ConfigError(f"data.keep_tokens: {data.keep_tokens} must be 0 or more")
    framing = framing_of(data)
    if framing.buckets and framing.upscale and framing.least > framing.most:
        raise ConfigError(
            f"data.min_bucket: {framing.least} is more than data.max_bucket, {framing.most}"
        )
    if framing.buckets and framing.step > min(framing.resolution):
        raise ConfigError(f"data.bucket_step: {framing.step} is more than the resolution")
    if data.color_augmentation and config.cache != OFF:
        raise ConfigError(
            "data.color_augmentation: changes the pictures each time, so their latents cannot be "
            "kept; set cache=off (slower), or leave it out"
        )


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ConfigError for a value that is none of the choices, with the nearest one."""
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
    try:
        with redirect_stdout(StringIO()):  # some greet
            cls([torch.nn.Parameter(torch.zeros(1))], **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {name} refuses its settings: {cause(error)}") from None
    return cls


def check_train(config: TrainConfig) -> None:
    """Refuses impossible settings of `python -m train`, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    check_trial(config)
    check_choice("resume", config.resume, RESUME)
    if not re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]*[^/\\:*?\"<>|\x00-\x1f. ]", config.name):
        raise ConfigError(
            f'name: {config.name!r} is to be a file name, with no folder and none of : * ? " < > |'
        )
