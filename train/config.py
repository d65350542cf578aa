"""The settings of a training run: typed, and checked before any model is loaded."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.text_settings import literal, path_field, text_field

CONF = Path(__file__).resolve().parent.parent / "conf"
# where things lie and what they run on, in DataConfig and in BaseConfig: no part of what is made
DATA_PLACES = ("path", "dataset_config", "regularization_path", "validation_path")
BASE_PLACES = ("path", "device", "speed")
OWN_DEFAULTS = "own_defaults"  # in the defaults lists of conf/train.yaml, sweep and evaluate
FIND_THEIR_OWN = ("Prodigy", "DAdapt")  # how optimizers are called that find their step size
EMBEDDED = "puppets"  # the name under which `base.path` and `data.path` find what we ship

Schema = TypeVar("Schema")


class UserError(Exception):
    """What a person can put right: commands print its message as one line, without a traceback."""


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type, or impossible beside another."""


@dataclass
class DataConfig:
    """Which pictures, and how they are read."""

    path: str = path_field(EMBEDDED)
    dataset_config: str | None = path_field(None)
    regularization_path: str | None = path_field(None)
    trigger: str = text_field("sks puppet")
    class_words: str | None = text_field(None)
    caption_extension: str = text_field(".txt")
    shuffle_caption: bool = False
    keep_tokens: int = 0
    repeats: int = 1
    few: int = 10
    resolution: int = 512
    height: int | None = None
    buckets: bool = False
    min_bucket: int | None = None
    max_bucket: int | None = None
    bucket_step: int | None = None
    bucket_upscale: bool = True
    flip: bool = False
    color_augmentation: bool = False
    latents: str = "sampled"
    on_error: str = "stop"
    validation_path: str | None = path_field(None)
    validation_fraction: float = 0.15
    validation_seed: int = 0


@dataclass
class BaseConfig:
    """Which model the LoRAs are trained on."""

    path: str = path_field(EMBEDDED)
    device: str = text_field("auto")
    precision: str = "fp32"
    speed: str = "eager"
    attention: str = "sdpa"
    clip_skip: int = 1
    prediction: str = "auto"


@dataclass
class NetworkConfig:
    """Size of the adapters; kohya's network_dim and network_alpha are rank and alpha."""

    rank: int = 16
    alpha: float | None = None
    alpha_ratio: float | None = None
    conv_rank: int = 0
    conv_alpha: float | None = None
    dropout: float = 0.0
    text_encoder: bool = False

    @property
    def linear_alpha(self) -> float:
        """alpha of all modules but 3x3 convolutions: as given, by the ratio, or the rank."""
        return self._alpha(self.alpha, self.rank)

    @property
    def convolution_alpha(self) -> float:
        """alpha of the 3x3 convolutions."""
        return self._alpha(self.conv_alpha, self.conv_rank)

    def _alpha(self, given: float | None, rank: int) -> float:
        if given is not None:
            return float(given)
        return rank * (1.0 if self.alpha_ratio is None else self.alpha_ratio)


@dataclass
class SchedulerConfig:
    """How the learning rate goes over the steps."""

    name: str = "constant"
    warmup: float = 0.0
    warmup_steps: int | None = None
    warmup_epochs: float | None = None
    num_cycles: int = 1
    power: float = 1.0
    min_lr_ratio: float = 0.0
    decay: float = 0.2


@dataclass
class TrainingConfig:
    """How long, how much at once, and what is saved."""

    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 1
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    save_every: int | None = 1
    keep_last: int | None = None
    max_grad_norm: float = 1.0
    caption_dropout: float = 0.0
    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    prior_loss_weight: float = 1.0
    text_encoder_lr: float | None = None
    save_precision: str = "fp16"
    seed: int = 0
    oom: str = "stop"
    state_minutes: float = 15.0


@dataclass
class TrialConfig:
    """All settings that decide the bytes of one trial's LoRA files; and, which do not, where what
    is computed once is kept."""

    data: DataConfig = field(default_factory=DataConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    cache: str = "memory"
    cache_path: str = path_field("outputs/cache")


@dataclass
class TrainConfig(TrialConfig):
    """conf/train.yaml: a trial's settings, where its files go, and whether a run is continued.

    Attributes:
        name: of the files.
    """

    output: str = path_field("outputs/lora")
    name: str = text_field("lora")
    resume: str = "auto"


def trial_of(config: TrialConfig) -> TrialConfig:
    """The part of a command's settings that decides the bytes of the LoRA files."""
    return TrialConfig(**{f.name: getattr(config, f.name) for f in fields(TrialConfig)})


def settings_of(config: TrialConfig) -> dict[str, Any]:
    """All the settings that decide the bytes of a trial's LoRA files."""
    settings = asdict(config)
    return {key: value for key, value in settings.items() if not key.startswith("cache")}


def finds_its_own(target: str) -> bool:
    """Whether an optimizer of this dotted path finds its step size itself: its lr is a factor."""
    return target.rpartition(".")[2].startswith(FIND_THEIR_OWN)


def _by_base(embedded: Any, real: Any, *, _root_: DictConfig) -> Any:
    return embedded if _root_.base.path == EMBEDDED else real


def _by_optimizer(adamw: float, lion: float, *, _root_: DictConfig) -> float:
    target = str(_root_.optimizer.get("_target_", ""))
    if finds_its_own(target):
        return 1.0
    return lion if "Lion" in target.rpartition(".")[2] else adamw


def _times(number: Any, by: float) -> str:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return str(number)  # the setting itself is refused, by its own name
    return f"{number * by:.3g}"


# ${by_base:A,B} in a YAML is A on the embedded base and B on any other, so that
# `base.path=/my/model.safetensors` alone also moves the settings that hang on the base.
OmegaConf.register_new_resolver("by_base", _by_base, replace=True)
# ${by_optimizer:A,B} is A for AdamW and its like and B for Lion, which wants smaller steps; 1 for
# those that find their step size themselves.
OmegaConf.register_new_resolver("by_optimizer", _by_optimizer, replace=True)
# ${times:A,F} is F times A, so that a range can follow another setting.
OmegaConf.register_new_resolver("times", _times, replace=True)
# what train/local.py fills with a person's own defaults
ConfigStore.instance().store(OWN_DEFAULTS, {})


def typed(schema: type[Schema], config: DictConfig) -> Schema:
    """The config as an instance of `schema`, every key and type checked.

    Raises:
        ConfigError: an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    plain = OmegaConf.create(literal(OmegaConf.to_container(config, resolve=True)))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), plain)
    except OmegaConfBaseException as error:
        key = error.full_key or str(error.key)
        reason = str(error).splitlines()[0]
        near = suggestion(key, keys(OmegaConf.structured(schema)))
        raise ConfigError(f"{key}: {reason}{near}") from None
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of all the settings and groups in a config."""
    found: list[str] = []
    for name, value in cast(dict[str, Any], OmegaConf.to_container(config)).items():
        found.append(f"{prefix}{name}")
        if isinstance(value, dict):
            found += keys(OmegaConf.create(value), f"{prefix}{name}.")
    return found


def suggestion(key: str, known: list[str]) -> str:
    """`; did you mean X?` for the known key nearest to `key`, or nothing."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near and near[0] != key else ""


def cause(error: BaseException) -> str:
    """An exception in one line: its first line, or its type where it has no words."""
    words = str(error).strip().splitlines()
    return words[0][:300] if words else type(error).__name__
