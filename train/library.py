"""Training as functions, for notebooks and scripts; listed in `train/__init__.py`."""

from __future__ import annotations

import glob
from pathlib import Path

from train.cli.compose import checked_settings
from train.config.schema import TrainConfig, trial_of
from train.config_checks import check_train
from train.data.dataset import Dataset, load_dataset
from train.errors import TrainingError
from train.loop.trainer import Trainer, TrialSpec
from train.models.base_model import BaseModel, load_base


def train_settings(*overrides: str) -> TrainConfig:
    """The settings of one training run: conf/train.yaml with overrides as on the command line.

    Raises:
        ConfigError, HydraException: unknown settings, wrong types, impossible combinations.

    Example:
        >>> config = train_settings("network.rank=4", "training.epochs=2")
        >>> config.network.rank, config.data.resolution
        (4, 64)
    """
    return checked_settings("train", TrainConfig, check_train, overrides)


def train_lora(
    config: TrainConfig, base: BaseModel | None = None, dataset: Dataset | None = None
) -> list[Path]:
    """Trains one LoRA and saves its checkpoints into `config.output`.

    The same settings again continue an interrupted run, or find it finished.

    Args:
        base: as `load_base(config.base)` returns it, if it is loaded already.
        dataset: as `load_dataset(config.data)` returns it.

    Returns:
        the LoRA files in kohya's format, one per saved epoch, in order.

    Raises:
        DataError, BaseError: the images or the base cannot be used.
        TrainingError: the loss is not finite.

    Example:
        >>> config = train_settings("training.epochs=2", "data.repeats=1", "output=my_lora")
        >>> [file.name for file in train_lora(config)]
        ['lora-000001.safetensors', 'lora.safetensors']
    """
    base = base or load_base(config.base)
    dataset = dataset or load_dataset(config.data)
    spec = TrialSpec(trial_of(config), Path(config.output), config.name)
    for epoch in Trainer(base, dataset, [spec]):
        for reason in epoch.failures.values():
            raise TrainingError(reason)
    numbered = sorted(spec.folder.glob(f"{glob.escape(config.name)}-*.safetensors"))
    return [*numbered, spec.folder / f"{config.name}.safetensors"]
