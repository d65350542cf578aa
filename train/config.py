"""The settings of a training run: typed, and checked before any model is loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from train.ranges import (
    SEED,
    SHARE,
    UP_TO_ALL,
    Range,
    complaints,
    declared,
    is_number,
    limited,
    ranged,
    shown,
)
from train.text_settings import (
    OF_CLASS,
    OF_NUMBERS,
    choice_field,
    is_numeric,
    literal,
    model_field,
    path_field,
    text_field,
)

CONF = Path(__file__).resolve().parent.parent / "conf"
# where things lie and what they run on, in DataConfig and in BaseConfig: no part of what is made
DATA_PLACES = ("path", "dataset_config", "regularization_path", "validation_path")
BASE_PLACES = ("path", "device", "speed")
OWN_DEFAULTS = "own_defaults"  # in the defaults lists of conf/train.yaml, sweep and evaluate
FIND_THEIR_OWN = ("Prodigy", "DAdapt")  # how optimizers are called that find their step size
EMBEDDED = "puppets"  # the name under which `base.path` and `data.path` find what we ship
EMBEDDED_BASE = Path(__file__).parent / "puppets" / "weights" / "base"
HIGHEST_RANK = 320  # the widest matrices of Stable Diffusion 1.x have no more directions
ALPHA = Range(1e-4, 10_000)
LEARNING_RATE = Range(1e-12, 1e6)
MOST_EPOCHS, MOST_STEPS = 100_000, 10_000_000
BOOLEANS = {"true", "false", "yes", "no", "on", "off", "y", "n", "1", "0"}  # OmegaConf's words
ABSENT = re.compile(r"Interpolation key '([^']*)' not found")
LONGEST_NUMBER = 1000  # bits; a float holds no whole number of more than 1024

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
    trigger: str | None = text_field("sks puppet")
    class_words: str | None = text_field(None)
    caption_extension: str = text_field(".txt")
    shuffle_caption: bool = False
    keep_tokens: int = ranged(0, 0, 1000)
    repeats: int = ranged(1, 1, 10_000)
    few: int = ranged(10, 0, 1_000_000)
    resolution: int = ranged(512, 8, 4096)
    height: int | None = ranged(None, 8, 4096)
    buckets: bool = False
    min_bucket: int | None = ranged(None, 1, 8192)
    max_bucket: int | None = ranged(None, 1, 8192)
    bucket_step: int | None = ranged(None, 1, 1024)
    bucket_upscale: bool = True
    flip: bool = False
    color_augmentation: bool = False
    latents: str = choice_field("sampled")
    on_error: str = choice_field("stop")
    validation_path: str | None = path_field(None)
    validation_fraction: float = limited(0.15, SHARE)
    validation_seed: int = limited(0, SEED)

    @property
    def trigger_words(self) -> str:
        """The trigger as it stands in captions; empty where there is none."""
        return (self.trigger or "").strip()

    @property
    def bare_caption(self) -> str:
        """What is said of pictures without a caption, where their folder says nothing else."""
        return self.trigger_words if self.class_words is None else self.class_words.strip()


@dataclass
class BaseConfig:
    """Which model the LoRAs are trained on."""

    path: str = model_field(EMBEDDED)
    device: str = text_field("auto")
    precision: str = choice_field("fp32")
    speed: str = choice_field("eager", local=True)
    attention: str = choice_field("sdpa")
    clip_skip: int = ranged(1, 1, 32)
    prediction: str = choice_field("auto")


@dataclass
class NetworkConfig:
    """Size of the adapters; kohya's network_dim and network_alpha are rank and alpha."""

    rank: int = ranged(16, 1, HIGHEST_RANK)
    alpha: float | None = limited(None, ALPHA)
    alpha_ratio: float | None = ranged(None, 1e-4, 100)
    conv_rank: int = ranged(0, 0, HIGHEST_RANK)
    conv_alpha: float | None = limited(None, ALPHA)
    dropout: float = limited(0.0, SHARE)
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

    name: str = choice_field("constant")
    warmup: float = limited(0.0, UP_TO_ALL)
    warmup_steps: int | None = ranged(None, 0, MOST_STEPS)
    warmup_epochs: float | None = ranged(None, 0, MOST_EPOCHS)
    num_cycles: int = ranged(1, 1, 10_000)
    power: float = ranged(1.0, 0.01, 100)
    min_lr_ratio: float = limited(0.0, SHARE)
    decay: float = limited(0.2, SHARE)


@dataclass
class TrainingConfig:
    """How long, how much at once, and what is saved."""

    epochs: int = ranged(10, 1, MOST_EPOCHS)
    max_steps: int | None = ranged(None, 1, MOST_STEPS)
    batch_size: int = ranged(1, 1, 4096)
    gradient_accumulation: int = ranged(1, 1, 10_000)
    gradient_checkpointing: bool = False
    save_every: int | None = ranged(1, 1, MOST_EPOCHS)
    keep_last: int | None = ranged(None, 1, MOST_EPOCHS)
    max_grad_norm: float = ranged(1.0, 0, 1e6)
    caption_dropout: float = limited(0.0, SHARE)
    min_snr_gamma: float | None = ranged(None, 0.01, 1000)
    noise_offset: float = limited(0.0, SHARE)
    prior_loss_weight: float = ranged(1.0, 0, 1000)
    # a number, or one for each of SDXL's two
    text_encoder_lr: Any = field(default=None, metadata=OF_NUMBERS)
    save_precision: str = choice_field("fp16")
    seed: int = limited(0, SEED)
    oom: str = choice_field("stop")
    state_minutes: float = ranged(15.0, 0, 100_000)


@dataclass
class TrialConfig:
    """All settings that decide the bytes of one trial's LoRA files; and, which do not, where what
    is computed once is kept."""

    data: DataConfig = field(default_factory=DataConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: dict[str, Any] = field(default_factory=dict, metadata=OF_CLASS)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    cache: str = choice_field("memory", local=True)
    cache_path: str = path_field("outputs/cache", local=True)


@dataclass
class TrainConfig(TrialConfig):
    """conf/train.yaml: a trial's settings, where its files go, and whether a run is continued.

    Attributes:
        name: of the files.
    """

    output: str = path_field("outputs/lora")
    name: str = text_field("lora")
    resume: str = choice_field("auto")


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
    return embedded if OmegaConf.select(_root_, "base.path") == EMBEDDED else real


def _by_pictures(shipped: Any, own: Any, *, _root_: DictConfig) -> Any:
    data = _root_.data
    named = data.path == EMBEDDED and data.dataset_config is None
    return shipped if named or _root_.base.path == EMBEDDED else own


def _by_optimizer(adamw: float, lion: float, *, _root_: DictConfig) -> float:
    target = str(OmegaConf.select(_root_, "optimizer._target_"))
    if finds_its_own(target):
        return 1.0
    return lion if "Lion" in target.rpartition(".")[2] else adamw


def _times(number: Any, by: float) -> str:
    """The product; what is no number stays as it is, for the check of its own key to refuse it."""
    return f"{number * by:.3g}" if is_number(number) else str(number)


# ${by_base:A,B} in a YAML is A on the embedded base and B on any other, so that
# `base.path=/my/model.safetensors` alone also moves the settings that hang on the base.
OmegaConf.register_new_resolver("by_base", _by_base, replace=True)
# ${by_pictures:A,B} is A where the pictures or the base are those that come with the program, and B
# where both are one's own.
OmegaConf.register_new_resolver("by_pictures", _by_pictures, replace=True)
# ${by_optimizer:A,B} is A for AdamW and its like and B for Lion, which wants smaller steps; 1 for
# those that find their step size themselves.
OmegaConf.register_new_resolver("by_optimizer", _by_optimizer, replace=True)
# ${times:A,F} is F times A, so that a range can follow another setting.
OmegaConf.register_new_resolver("times", _times, replace=True)
# what train/local.py fills with a person's own defaults
ConfigStore.instance().store(OWN_DEFAULTS, {})


def typed(schema: type[Schema], config: DictConfig) -> Schema:
    """The config as an instance of `schema`; every key, type and range is checked.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a value of the wrong type, or one
            outside of the range that its field declares.
    """
    try:
        values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        for complaint in _misread(values, schema):
            raise ConfigError(complaint)
        merged = OmegaConf.merge(_structured(cast(type, schema)), OmegaConf.create(literal(values)))
        settings = cast(Schema, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = error.full_key or str(error.key)
        if absent := ABSENT.search(str(error)):
            raise ConfigError(
                f"{absent[1]}: there is no such setting any more, or none yet, and {key} takes its "
                "value from it"
            ) from None
        unknown = isinstance(error, ConfigKeyError)
        near = suggestion(key, keys(_structured(cast(type, schema)))) if unknown else ""
        within = declared(schema, key)
        what = f"; it must be a number {within}" if within else near
        words = "there is no such setting" if unknown else cause(error)
        raise ConfigError(f"{key}: {words}{what}") from None
    for complaint in complaints(settings):
        raise ConfigError(complaint)
    return settings


@cache
def _structured(schema: type) -> DictConfig:
    """The types of a schema as OmegaConf has them; a merge leaves it as it is."""
    return cast(DictConfig, OmegaConf.structured(schema))


def _misread(values: dict[str, Any], schema: object, prefix: str = "") -> Iterator[str]:
    """What OmegaConf would take for another value than the one given, or cannot even refuse."""
    kinds = get_type_hints(schema) if is_dataclass(schema) else {}
    for name, value in values.items():
        key, kind = f"{prefix}{name}", kinds.get(name)
        if isinstance(value, dict):
            yield from _misread(value, kind, f"{key}.")
        elif is_dataclass(kind):
            inside = f"{key}.{fields(kind)[0].name}"
            yield f"{key}: {shown(value)} cannot be; it is a group of settings, such as {inside}"
        elif get_origin(kind) is dict and value is not None:
            yield f"{key}: {shown(value)} cannot be; it is a list of names and values, as {{a: 1}}"
        elif get_origin(kind) is list and any(not isinstance(one, dict) for one in value or ()):
            yield f"{key}: {shown(value)} must be a list of settings, as [{{network.rank: 4}}]"
        elif kind is bool and str(value).lower() not in BOOLEANS:
            yield f"{key}: {shown(value)} must be true or false"
        elif isinstance(value, str) and "${" in value and is_numeric(kind):
            yield f"{key}: {shown(value)} must be a number"
        elif kind is not str and isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
            yield f"{key}: {shown(value)} is too large a number"


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
