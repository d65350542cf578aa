"""Checks for impossible settings of a training run, before any model is loaded."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from train.config.optimizer_arguments import check_optimizer
from train.config.parsing import cause, suggestion
from train.config.ranges import format_value
from train.config.schema import (
    BaseConfig,
    DataConfig,
    NetworkConfig,
    SchedulerConfig,
    TrainConfig,
    TrialConfig,
    is_lr_free,
)
from train.data.images.buckets import framing_of
from train.errors import ConfigError
from train.files.paths import expanded

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
SCHEDULER_ALIASES = {"cosine_with_restarting": "cosine_with_restarts"}  # some guides' spelling
WARM_UPS = ("warmup_ratio", "warmup_steps", "warmup_epochs")  # at most one may be given
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu", "musa")  # torch's names
DEVICE = rf"auto|cpu|({'|'.join(DEVICES[2:])})(:\d{{1,3}})?"
PRECISIONS = ("fp32", "bf16", "fp16")
CACHES = MEMORY, DISK, OFF = "memory", "disk", "off"
ATTENTIONS = ("sdpa", "xformers")
PREDICTIONS = ("auto", "epsilon", "v_prediction")
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}
ON_OOM = FAIL, DEGRADE = "fail", "degrade"
RESUME = RESUME_AUTO, RESUME_OFF = "auto", "off"


def check_trial(config: TrialConfig) -> None:
    """Rejects impossible combinations, naming the key; `parse_config` has checked types and ranges.

    Nothing is imported for it. Checks that need torch are in `train.loop.construction_checks`.

    Raises:
        ConfigError: naming the first setting that cannot work.
    """
    check_data(config.data)
    check_choice("cache", config.cache, CACHES)
    if config.data.color_augmentation and config.cache != OFF:
        raise ConfigError(
            "data.color_augmentation: changes the images each time, so their latents cannot be "
            "kept; set cache=off (slower), or leave it out"
        )
    check_base(config.base)
    _check_network(config.network)
    _check_scheduler(config.scheduler)
    _check_training(config)
    _check_text_rates(config.training.text_encoder_lr)
    check_optimizer(config.optimizer)


def _check_network(network: NetworkConfig) -> None:
    if network.conv_alpha is not None and not network.conv_rank:
        raise ConfigError("network.conv_alpha: needs network.conv_rank > 0")
    for key in ("alpha", "conv_alpha"):
        if network.alpha_ratio is not None and getattr(network, key) is not None:
            raise ConfigError(f"network.{key}: is given by network.alpha_ratio too; leave one null")


def _check_scheduler(scheduler: SchedulerConfig) -> None:
    check_choice("scheduler.name", scheduler.name, (*SCHEDULERS, *SCHEDULER_ALIASES))
    given = [key for key in WARM_UPS if getattr(scheduler, key)]
    if len(given) > 1:
        raise ConfigError(
            f"scheduler.{given[1]}: scheduler.{given[0]} is given too; one warm-up is enough"
        )
    if (
        scheduler.warmup_ratio + scheduler.decay_ratio > 1
        and scheduler.name == "warmup_stable_decay"
    ):
        raise ConfigError(
            "scheduler.decay_ratio: together with scheduler.warmup_ratio it is more than 1"
        )


def _check_training(config: TrialConfig) -> None:
    training = config.training
    check_choice("training.save_precision", training.save_precision, PRECISIONS)
    check_choice("training.on_oom", training.on_oom, ON_OOM)
    if training.text_encoder_lr is not None and not config.network.text_encoder:
        raise ConfigError("training.text_encoder_lr: needs network.text_encoder=true")
    target = str(config.optimizer.get("_target_"))
    if is_lr_free(target) and training.text_encoder_lr not in (None, 1.0):
        name = target.rpartition(".")[2]
        raise ConfigError(
            f"training.text_encoder_lr: {name} estimates one step size for all; leave it null"
        )
    if training.ema and "ScheduleFree" in target:
        raise ConfigError(f"training.ema: {target.rpartition('.')[2]} averages its weights itself")
    steps, warmup = training.max_steps, config.scheduler.warmup_steps
    if steps is not None and warmup is not None and warmup > steps:
        raise ConfigError(
            f"scheduler.warmup_steps: {warmup} is more than training.max_steps, {steps}"
        )
    warmup_epochs = config.scheduler.warmup_epochs
    if steps is None and warmup_epochs is not None and warmup_epochs > training.epochs:
        raise ConfigError(
            f"scheduler.warmup_epochs: {warmup_epochs:g} is more than training.epochs, "
            f"{training.epochs}"
        )


def _check_text_rates(given: Any) -> None:
    """Checks the learning rate of all text encoders, or of two, of which one may be 0."""
    rates = given if isinstance(given, list) else [given, given]
    if given is None:
        return
    numbers = all(isinstance(rate, int | float) and not isinstance(rate, bool) for rate in rates)
    if len(rates) != 2 or not numbers or not all(0 <= r <= 1e6 for r in rates) or not any(rates):
        raise ConfigError(
            f"training.text_encoder_lr: {given} must be a number above 0, or two, of which one may "
            "be 0"
        )


def check_base(base: BaseConfig) -> None:
    """Rejects a base that cannot be loaded, before anything is.

    Raises:
        ConfigError: a pickle, an unknown choice, or a package that is not installed.
    """
    if not base.path:
        raise ConfigError("base.path: say where the model is")
    _check_path(base.path)
    check_choice("base.precision", base.precision, PRECISIONS)
    check_choice("base.attention", base.attention, ATTENTIONS)
    check_choice("base.prediction_type", base.prediction_type, PREDICTIONS)
    check_device_name(base.device)
    if base.attention == "xformers" and importlib.util.find_spec("xformers") is None:
        raise ConfigError(
            "base.attention: xformers is not installed (pip install xformers, or take sdpa, "
            "which comes with torch)"
        )
    if base.attention == "xformers" and base.device == "cpu":
        raise ConfigError("base.attention: xformers needs a CUDA device; take sdpa on the CPU")


def check_device_name(device: str) -> None:
    """Rejects an invalid device name; whether this machine has the device only torch knows.

    Raises:
        ConfigError: with the usual names.
    """
    if not re.fullmatch(DEVICE, device):
        raise ConfigError(
            f"base.device: {format_value(device)} is not one of auto, cpu, cuda, cuda:1, mps, xpu"
        )


def _check_path(path: str) -> None:
    try:
        file = expanded(path)
        pickled = file.suffix.lower() in PICKLES or (file.is_file() and _begins_as_pickle(file))
    except (OSError, ValueError) as error:  # too long, not readable
        raise ConfigError(f"base.path: {format_value(path)}: {cause(error)}") from None
    if pickled:
        raise ConfigError(
            f"base.path: {path} is a pickle, which can run code when loaded; "
            "give its .safetensors version, or convert it with diffusers"
        )


def _begins_as_pickle(file: Path) -> bool:
    """Whether a file is a pickle or a zip around one, as torch.save writes, whatever its name."""
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
    except OSError:  # reported when it is loaded
        return False
    # a safetensors file begins with the length of its header, in any 8 bytes
    return head.startswith((b"\x80", b"PK\x03\x04")) and not head.endswith(b"{")


def check_data(data: DataConfig) -> None:
    """Rejects impossible settings of `data`.

    Raises:
        ConfigError: naming the first setting that cannot work.
    """
    if not data.path and data.dataset_config is None:
        raise ConfigError("data.path: say where your images are")
    check_choice("data.on_error", data.on_error, ("stop", "skip"))
    if not re.fullmatch(r"\s*\.?[^\s./\\*?\[\]\0]+\s*", data.caption_extension):
        raise ConfigError(
            f"data.caption_extension: {format_value(data.caption_extension)} must be the last part "
            "of the files' names, such as .txt"
        )
    framing = framing_of(data)
    if framing.buckets and framing.upscale and framing.least > framing.most:
        raise ConfigError(
            f"data.min_bucket: {framing.least} is more than data.max_bucket, {framing.most}"
        )
    if framing.buckets and framing.step > min(framing.resolution):
        raise ConfigError(f"data.bucket_step: {framing.step} is more than the resolution")


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ConfigError with a suggestion if the value is not one of the choices."""
    if value not in choices:
        hint = suggestion(value, list(choices))
        raise ConfigError(f"{key}: {format_value(value)} is not one of {', '.join(choices)}{hint}")


def check_train(config: TrainConfig) -> None:
    """Rejects impossible settings of `python -m train`, naming the key.

    Raises:
        ConfigError: naming the first setting that cannot work.
    """
    check_trial(config)
    check_choice("resume", config.resume, RESUME)
    check_file_name(config.name)


def check_file_name(name: str) -> None:
    """Rejects an invalid `name` of a run's files.

    Raises:
        ConfigError: it leads to another folder, or is not valid on some systems.
    """
    if not re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]*[^/\\:*?\"<>|\x00-\x1f. ]", name):
        raise ConfigError(
            f'name: {name!r} must be a file name, with no folder and none of : * ? " < > |'
        )
