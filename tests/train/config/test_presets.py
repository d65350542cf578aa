"""Presets: settings from guides, which the command line overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.cli.compose import settings
from train.config.schema import TrainConfig
from train.config_checks import check_train
from train.data.dataset import load_dataset

REAL = "base.path=/my/model.safetensors"


def preset_config(*overrides: str) -> TrainConfig:
    config = settings("train", TrainConfig, overrides)
    check_train(config)
    return config


@pytest.mark.parametrize(
    ("preset", "resolution", "repeats", "rank", "alpha", "lr", "epochs", "scheduler"),
    [
        ("character", 512, 10, 32, 16, 1e-4, 20, "constant"),
        ("style", 768, 3, 64, 32, 5e-5, 30, "cosine"),
        ("concept", 512, 6, 16, 8, 1e-4, 15, "cosine"),
    ],
)
def test_presets_match_the_guides(
    preset: str, resolution: int, repeats: int, rank: int, alpha: float, lr: float, epochs: int,
    scheduler: str,
) -> None:  # fmt: skip
    config = preset_config(REAL, f"preset={preset}")
    assert (config.data.resolution, config.data.repeats) == (resolution, repeats)
    assert (config.network.rank, config.network.alpha) == (rank, alpha)
    assert config.optimizer["lr"] == lr
    assert (config.training.epochs, config.training.save_every) == (epochs, 5)
    assert (config.scheduler.name, config.scheduler.warmup_ratio) == (scheduler, 0.1)
    small = preset_config(f"preset={preset}")
    assert small.data.resolution == preset_config().data.resolution
    assert small.optimizer["lr"] >= 20 * lr, "the embedded base learns nothing at a real one's rate"
    assert small.network.rank < rank, "the embedded base is small"
    assert small.data.min_images_warning == 10, "the embedded sets have 12 and 16 images"


@pytest.mark.parametrize(("preset", "minimum"), [("character", 15), ("style", 50), ("concept", 15)])
def test_preset_sets_min_images_warning(image_folder: Path, preset: str, minimum: int) -> None:
    custom = [f"data.path={image_folder}", "data.trigger=sks puppet"]
    config = preset_config(REAL, f"preset={preset}", *custom)
    assert f"only 6 images: with fewer than {minimum}" in load_dataset(config.data).report()


def test_command_line_overrides_a_preset() -> None:
    config = preset_config(
        REAL, "scheduler=linear", "network.rank=4", "preset=style", "optimizer.lr=3e-4",
        "scheduler.warmup_ratio=0",
    )  # fmt: skip
    assert (config.scheduler.name, config.scheduler.warmup_ratio) == ("linear", 0)
    assert (config.network.rank, config.optimizer["lr"]) == (4, 3e-4)
    assert config.training.epochs == 30
    assert preset_config(REAL) == preset_config(REAL, "preset=none")


def test_learning_rate_of_a_preset_follows_the_optimizer() -> None:
    rates = {
        name: preset_config(REAL, "preset=style", f"optimizer={name}").optimizer["lr"]
        for name in ("adamw8bit", "lion", "prodigy")
    }
    assert rates == {"adamw8bit": 5e-5, "lion": 1e-5, "prodigy": 1.0}
