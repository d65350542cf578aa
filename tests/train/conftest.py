"""Shared by the tests of the trainer: a small trial, and how to train it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from train.config.schema import (
    BaseConfig,
    DataConfig,
    NetworkConfig,
    TrainConfig,
    TrainingConfig,
    TrialConfig,
)
from train.data.dataset import Dataset
from train.loop.trainer import Epoch, Trainer, TrialSpec
from train.models.base_model import BaseModel
from train.resume.run_files import state_file


@pytest.fixture
def trial(base_folder: Path, image_folder: Path) -> Callable[..., TrialConfig]:
    """Makes a trial; arguments are settings of `training`, or other parts by name."""

    def made(**settings: Any) -> TrialConfig:
        names = {name for name in vars(TrialConfig()) if name != "training"}
        parts = {name: settings.pop(name) for name in names & set(settings)}
        training = {"epochs": 2, "batch_size": 2, "save_precision": "fp32", **settings}
        config = TrialConfig(
            data=DataConfig(path=str(image_folder), resolution=32),
            base=BaseConfig(path=str(base_folder), device="cpu"),
            network=NetworkConfig(rank=4, alpha=2.0, conv_rank=2),
            optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-3},
            training=TrainingConfig(**training),
        )
        return replace(config, **parts)

    return made


@pytest.fixture(scope="session")
def exact_base(base_folder: Path) -> BaseModel:
    """In float64, where the order of additions makes no difference."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder, dtype=torch.float64)
    base = BaseModel(pipeline, str(base_folder), lambda: "exact", torch.device("cpu"))
    torch.set_default_dtype(before)
    return base


def train(base: BaseModel, dataset: Dataset, *members: TrialSpec, **more: Any) -> list[Epoch]:
    """Trains to the end."""
    return list(Trainer(base, dataset, list(members), **more))


def train_config(config: TrialConfig, folder: Path, **more: Any) -> TrainConfig:
    """The config of `python -m train` for a trial."""
    return TrainConfig(**vars(config), output=str(folder), **more)


def read_final_state(folder: Path) -> dict[str, Any]:
    """The saved state at the end of a run."""
    state: dict[str, Any] = torch.load(state_file(folder), weights_only=True)
    return state


def relative_distance(a: Path, b: Path) -> float:
    """The relative distance between the weights of two runs."""
    pairs = [
        (read_final_state(a)["adapter"][k], read_final_state(b)["adapter"][k])
        for k in read_final_state(a)["adapter"]
    ]
    return max(float((x - y).norm() / y.norm()) for x, y in pairs if len(y))
