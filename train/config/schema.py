"""The settings of a training run: typed, and checked before any model is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from train.config.ranges import (
    SEED,
    SHARE,
    UNIT_INTERVAL,
    Range,
    limited,
    ranged,
)
from train.config.setting_kinds import (
    LOCAL,
    OF_CLASS,
    OF_NUMBERS,
    choice_field,
    model_field,
    path_field,
    text_field,
)

CONF = Path(__file__).resolve().parents[2] / "conf"
# locations and hardware in DataConfig and BaseConfig: they do not affect the result
DATA_LOCATION_KEYS = ("path", "dataset_config", "regularization_path", "validation_path")
BASE_LOCATION_KEYS = ("path", "device", "compile")
LOCAL_SETTINGS = "local_settings"  # in the defaults lists of conf/train.yaml, sweep and evaluate
LR_FREE_OPTIMIZERS = ("Prodigy", "DAdapt")  # prefixes of optimizers that estimate their step size
EMBEDDED = "puppets"  # the value of `base.path` for the embedded base
# values of `data.path` and options of the group `data` for the embedded images
EMBEDDED_IMAGES = (EMBEDDED, "puppets_object", "puppets_style")
EMBEDDED_BASE = Path(__file__).parents[1] / "puppets" / "weights" / "base"
MAX_RANK = 320  # the narrowest layer of Stable Diffusion 1.x has this many directions
ALPHA = Range(1e-4, 10_000)
LEARNING_RATE = Range(1e-12, 1e6)
MAX_EPOCHS, MAX_STEPS = 100_000, 10_000_000


@dataclass
class DataConfig:
    """The dataset, and how it is read."""

    path: str = path_field(EMBEDDED)
    dataset_config: str | None = path_field(None)
    regularization_path: str | None = path_field(None)
    trigger: str | None = text_field("sks puppet")
    class_words: str | None = text_field(None)
    caption_extension: str = text_field(".txt")
    shuffle_caption: bool = False
    keep_tokens: int = ranged(0, 0, 1000)
    repeats: int = ranged(1, 1, 10_000)
    min_images_warning: int = ranged(10, 0, 1_000_000)
    resolution: int = ranged(512, 8, 4096)
    height: int | None = ranged(None, 8, 4096)
    buckets: bool = False
    min_bucket: int | None = ranged(None, 1, 8192)
    max_bucket: int | None = ranged(None, 1, 8192)
    bucket_step: int | None = ranged(None, 1, 1024)
    bucket_upscale: bool = True
    flip: bool = False
    color_augmentation: bool = False
    resample_latents: bool = True
    on_error: str = choice_field("stop")
    validation_path: str | None = path_field(None)
    validation_fraction: float = limited(0.15, SHARE)
    validation_seed: int = limited(0, SEED)

    @property
    def trigger_words(self) -> str:
        """The trigger as used in captions; may be empty."""
        return (self.trigger or "").strip()

    @property
    def default_caption(self) -> str:
        """The caption of images without one, unless their folder gives another."""
        return self.trigger_words if self.class_words is None else self.class_words.strip()


@dataclass
class BaseConfig:
    """The model that LoRAs are trained on."""

    path: str = model_field(EMBEDDED)
    device: str = text_field("auto")
    precision: str = choice_field("fp32")
    compile: bool = field(default=False, metadata={LOCAL: True})
    attention: str = choice_field("sdpa")
    clip_skip: int = ranged(1, 1, 32)
    prediction_type: str = choice_field("auto")


@dataclass
class NetworkConfig:
    """Size of the adapters; kohya's network_dim and network_alpha are rank and alpha."""

    rank: int = ranged(16, 1, MAX_RANK)
    alpha: float | None = limited(None, ALPHA)
    alpha_ratio: float | None = ranged(None, 1e-4, 100)
    conv_rank: int = ranged(0, 0, MAX_RANK)
    conv_alpha: float | None = limited(None, ALPHA)
    dropout: float = limited(0.0, SHARE)
    text_encoder: bool = False

    @property
    def linear_alpha(self) -> float:
        """Alpha of all modules but 3x3 convolutions: as given, by the ratio, or the rank."""
        return self._alpha(self.alpha, self.rank)

    @property
    def convolution_alpha(self) -> float:
        """Alpha of the 3x3 convolutions."""
        return self._alpha(self.conv_alpha, self.conv_rank)

    def _alpha(self, given: float | None, rank: int) -> float:
        if given is not None:
            return float(given)
        return rank * (1.0 if self.alpha_ratio is None else self.alpha_ratio)


@dataclass
class SchedulerConfig:
    """The learning rate over the steps."""

    name: str = choice_field("constant")
    warmup_ratio: float = limited(0.0, UNIT_INTERVAL)
    warmup_steps: int | None = ranged(None, 0, MAX_STEPS)
    warmup_epochs: float | None = ranged(None, 0, MAX_EPOCHS)
    num_cycles: int = ranged(1, 1, 10_000)
    power: float = ranged(1.0, 0.01, 100)
    min_lr_ratio: float = limited(0.0, SHARE)
    decay_ratio: float = limited(0.2, SHARE)


@dataclass
class TrainingConfig:
    """Length, batch size, loss, and files of a training."""

    epochs: int = ranged(10, 1, MAX_EPOCHS)
    max_steps: int | None = ranged(None, 1, MAX_STEPS)
    batch_size: int = ranged(1, 1, 4096)
    gradient_accumulation: int = ranged(1, 1, 10_000)
    gradient_checkpointing: bool = False
    save_every: int | None = ranged(1, 1, MAX_EPOCHS)
    save_last: int | None = ranged(None, 1, MAX_EPOCHS)
    max_grad_norm: float = ranged(1.0, 0, 1e6)
    caption_dropout: float = limited(0.0, SHARE)
    min_snr_gamma: float | None = ranged(None, 0.01, 1000)
    noise_offset: float = limited(0.0, SHARE)
    prior_loss_weight: float = ranged(1.0, 0, 1000)
    ema: float = ranged(0.0, 0, 0.28)
    # a number, or one for each of SDXL's two text encoders
    text_encoder_lr: Any = field(default=None, metadata=OF_NUMBERS)
    save_precision: str = choice_field("fp16")
    seed: int = limited(0, SEED)
    on_oom: str = choice_field("fail")
    resume_save_minutes: float = ranged(15.0, 0, 100_000)


@dataclass
class TrialConfig:
    """The settings that determine the bytes of one trial's LoRA files; and those of the cache,
    which do not."""

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
    """conf/train.yaml: a trial's settings, the location of its files, and how runs are resumed.

    Attributes:
        name: of the files.
    """

    output: str = path_field("outputs/lora")
    name: str = text_field("lora")
    resume: str = choice_field("auto")


def trial_of(config: TrialConfig) -> TrialConfig:
    """The part of a command's settings that determines the bytes of the LoRA files."""
    return TrialConfig(**{f.name: getattr(config, f.name) for f in fields(TrialConfig)})


def settings_of(config: TrialConfig) -> dict[str, Any]:
    """All settings that determine the bytes of a trial's LoRA files, as a dictionary."""
    settings = asdict(config)
    return {key: value for key, value in settings.items() if not key.startswith("cache")}


def is_lr_free(target: str) -> bool:
    """Whether an optimizer of this dotted path estimates its step size: its lr is a factor."""
    return target.rpartition(".")[2].startswith(LR_FREE_OPTIMIZERS)


# train/cli/local_settings.py fills it with the user's own defaults
ConfigStore.instance().store(LOCAL_SETTINGS, {})
