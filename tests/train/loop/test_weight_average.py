"""Files hold averaged weights if a run asks for them, and the training itself stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train.conftest import read_final_state, train
from train.cli.compose import settings
from train.config.schema import SchedulerConfig, TrainConfig, TrialConfig
from train.config_checks import check_train
from train.data.dataset import Dataset
from train.errors import ConfigError
from train.loop.trainer import TrialSpec
from train.loop.weight_average import WeightAverage, exponent
from train.lora.adapter import UNET, Adapter
from train.lora.checkpoint import load_checkpoint
from train.models.base_model import BaseModel

Make = Callable[..., TrialConfig]
WIDTH = 0.15


@pytest.mark.parametrize("width", [0.01, 0.05, 0.15, 0.28])
def test_the_average_has_the_width_that_was_asked_for(width: float) -> None:
    adapter = Adapter({"lora_unet_x": (torch.zeros(1, 1), torch.zeros(1, 1), 1.0)})
    average = WeightAverage(adapter, width)
    for step in range(1, 2001):
        time = step / 2000
        adapter.flat[UNET].data = torch.tensor([time, time**2])
        average.update(adapter)
    mean, square = average.flat[UNET].tolist()
    assert (square - mean**2) ** 0.5 == pytest.approx(width, rel=0.02)


def test_files_hold_the_average_of_all_steps(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    def config(steps: int, ema: float) -> TrialConfig:
        return trial(scheduler=SchedulerConfig("constant"), max_steps=steps, ema=ema)

    weights = []
    for steps in (1, 2, 3, 4):
        train(base, dataset, TrialSpec(config(steps, 0.0), tmp_path / str(steps)))
        weights.append(read_final_state(tmp_path / str(steps))["adapter"][f"flat.{UNET}"])
    train(base, dataset, TrialSpec(config(4, WIDTH), tmp_path / "average"))
    assert read_final_state(tmp_path / "average")["adapter"][f"flat.{UNET}"].equal(weights[-1])
    power = exponent(WIDTH) + 1
    shares = [((step / 4) ** power - ((step - 1) / 4) ** power) for step in (1, 2, 3, 4)]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * flat for share, flat in zip(shares, weights, strict=True))
    saved = load_checkpoint(tmp_path / "average" / "lora.safetensors", base.adapters)
    average = base.adapters.create(config(4, WIDTH).network, torch.Generator())
    average.flat[UNET].data = expected
    for key, up in average.up.items():
        torch.testing.assert_close(saved.up[key], up, atol=1e-6, rtol=1e-2)  # saved as fp16
    assert (expected - weights[-1]).norm() > 1e-3


def test_an_interrupted_run_continues_to_the_same_average(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    config = trial(ema=WIDTH)
    train(base, dataset, TrialSpec(config, tmp_path / "whole"))
    requested = iter([False, False, False, False, True])
    with pytest.raises(KeyboardInterrupt):
        train(
            base, dataset, TrialSpec(config, tmp_path / "two"), should_stop=lambda: next(requested)
        )
    train(base, dataset, TrialSpec(config, tmp_path / "two"))
    for name in ("lora-000001.safetensors", "lora.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_schedule_free_optimizers_average_themselves() -> None:
    config = settings("train", TrainConfig, ["optimizer=schedulefree", "training.ema=0.1"])
    with pytest.raises(ConfigError, match="ema: AdamWScheduleFree averages its weights itself"):
        check_train(config)
