"""Every optimizer trains and continues, on flat vectors and on matrices; all schedules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.train.conftest import read_final_state, train
from train.cli.compose import settings
from train.config.schema import BaseConfig, NetworkConfig, SchedulerConfig, TrainConfig, TrialConfig
from train.config_checks import check_trial
from train.data.batching import Batches
from train.data.dataset import Dataset
from train.errors import ConfigError
from train.loop.optimizers import make_optimizer, make_scheduler
from train.loop.schedule import TrainingSchedule
from train.loop.trainer import TrialSpec
from train.lora.adapter import UNET
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseModel, load_base

Make = Callable[..., TrialConfig]
OPTIMIZERS = (
    "adamw", "adamw8bit", "lion", "lion8bit", "prodigy", "dadaptation", "adafactor", "schedulefree",
)  # fmt: skip
SCHEDULERS = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
    "cosine_with_restarting", "cosine_with_min_lr", "inverse_sqrt", "warmup_stable_decay",
)  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_and_continues_to_the_same_bytes(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, optimizer: str
) -> None:
    chosen = settings("train", TrainConfig, [f"optimizer={optimizer}"]).optimizer
    config = trial(optimizer=chosen, scheduler=SchedulerConfig("constant", warmup_ratio=0.2))
    full = train(base, dataset, TrialSpec(config, tmp_path / "whole"))
    adapter = load_checkpoint(full[-1].checkpoints[0].path, base.adapters)
    assert any(up.abs().max() > 0 for up in adapter.up.values())
    requested = iter([False, False, False, False, True])
    with pytest.raises(KeyboardInterrupt):  # after 5 of 6 steps
        train(
            base, dataset, TrialSpec(config, tmp_path / "two"), should_stop=lambda: next(requested)
        )
    assert not (tmp_path / "two" / "lora.safetensors").exists()
    train(base, dataset, TrialSpec(config, tmp_path / "two"))
    for name in ("lora-000001.safetensors", "lora.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("optimizer", ["prodigy", "dadaptation", "schedulefree", "lion8bit"])
def test_flat_parameter_is_equivalent_to_the_matrices(
    base: BaseModel, trial: Make, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings("train", TrainConfig, [f"optimizer={optimizer}"]).optimizer
    config = trial(optimizer=chosen, network=NetworkConfig(rank=4, text_encoder=True))
    result = []
    for shapeless in (True, False):
        if not shapeless:
            monkeypatch.setattr("train.loop.optimizers.SHAPE_INDEPENDENT", set())
        adapter = base.adapters.create(config.network, torch.Generator().manual_seed(0))
        optimizing = make_optimizer(config, adapter)
        assert all(len(group["params"]) > 1 for group in optimizing.param_groups) != shapeless
        random = torch.Generator().manual_seed(1)
        for _ in range(20):
            for flat in adapter.parameters():
                flat.grad = torch.randn(flat.shape, generator=random) * 0.01
            adapter.assign_gradients()
            optimizing.step()
        result.append(torch.cat([flat.detach() for flat in adapter.parameters()]))
    moved = (result[0] - torch.cat([*_fresh(base, config)])).norm()
    assert moved > 0
    # 8 bits round in blocks that are cut otherwise, the others add in another order
    assert (result[0] - result[1]).norm() / moved < (0.1 if "8bit" in optimizer else 1e-4)


def _fresh(base: BaseModel, config: TrialConfig) -> list[torch.Tensor]:
    adapter = base.adapters.create(config.network, torch.Generator().manual_seed(0))
    return [flat.detach() for flat in adapter.parameters()]


def test_schedule_free_saves_averaged_weights(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    config = trial(optimizer={"_target_": "schedulefree.AdamWScheduleFree", "lr": 1e-2}, epochs=1)
    train(base, dataset, TrialSpec(config, tmp_path))
    state = read_final_state(tmp_path)
    trained, z = state["adapter"]["flat.lora_unet"], state["optimizer"]["state"][0]["z"]
    average = base.adapters.create(config.network, torch.Generator())
    average.flat["lora_unet"].data = trained.lerp(z, 1 - 1 / 0.9)  # x of y = 0.1 z + 0.9 x
    saved = load_checkpoint(tmp_path / "lora.safetensors", base.adapters)
    for key, up in average.up.items():
        torch.testing.assert_close(saved.up[key], up)
    assert (average.flat["lora_unet"] - trained).norm() > 1e-3


def test_lr_free_optimizers_have_lr_1(
    base: BaseModel, trial: Make, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = base.adapters.create(NetworkConfig(rank=2), torch.Generator())
    for target in ("prodigyopt.Prodigy", "dadaptation.DAdaptAdam"):
        optimizer = make_optimizer(trial(optimizer={"_target_": target, "lr": 0.1}), adapter)
        assert optimizer.param_groups[0]["lr"] == 1.0
        assert f"{target.split('.')[1]} estimates its own step size" in caplog.text


@pytest.mark.parametrize("folder", ["base_folder", "xl_folder"])
def test_text_encoder_has_its_own_learning_rate(
    dataset: Dataset, trial: Make, tmp_path: Path, folder: str, request: pytest.FixtureRequest
) -> None:
    """A step of SGD is the gradient times the rate; one rate applies to both encoders of SDXL."""
    requested = BaseConfig(path=str(request.getfixturevalue(folder)), device="cpu")
    base, network = load_base(requested), NetworkConfig(rank=2, text_encoder=True)
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0}
    steps = []
    for rate, used in ((None, 1.0), (0.25, 0.25)):
        config = trial(
            base=requested, network=network, optimizer=sgd, text_encoder_lr=rate, max_steps=1,
            max_grad_norm=0.0,
        )  # fmt: skip
        saved = train(base, dataset, TrialSpec(config, tmp_path / str(rate)))[-1].checkpoints[0]
        assert (saved.lr, saved.lr_text_encoder) == (1.0, used)
        metadata = read_metadata(saved.path)
        assert (metadata["ss_unet_lr"], metadata["ss_text_encoder_lr"]) == ("1.0", str(used))
        steps.append(load_checkpoint(saved.path, base.adapters).up)  # from zeros
    moved = dict.fromkeys((UNET, *base.family.text_encoders), 0.0)
    for key, step in steps[0].items():
        part = next(part for part in moved if key.startswith(f"{part}_"))
        torch.testing.assert_close(steps[1][key], step * (1.0 if part == UNET else 0.25))
        moved[part] += float(step.norm())
    assert all(moved.values())


@pytest.mark.parametrize("given", [{"foreach": True}, {"fused": False}])
def test_fused_is_not_set_if_an_implementation_is_chosen(
    base: BaseModel, trial: Make, given: dict[str, bool]
) -> None:
    adapter = base.adapters.create(NetworkConfig(rank=2), torch.Generator())
    chosen = {"_target_": "torch.optim.AdamW", "lr": 0.1}
    assert make_optimizer(trial(optimizer=chosen), adapter).defaults["fused"]
    assert not make_optimizer(trial(optimizer={**chosen, **given}), adapter).defaults["fused"]


def rates(scheduler: SchedulerConfig, steps: int = 100) -> list[float]:
    """The factor of the learning rate at each step; 10 steps per epoch."""
    plan = Batches({(8, 8): [0] * 10}, [((8, 8), k) for k in range(10)], 1)
    course = TrainingSchedule(plan, accumulation=1, epochs=steps // 10, steps=steps, save_every=1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, result = make_scheduler(scheduler, optimizer, course), []
    for _ in range(steps):
        result.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return result


@pytest.mark.parametrize("name", SCHEDULERS)
def test_shape_of_every_schedule(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = rates(settings("train", TrainConfig, [f"scheduler={name}"]).scheduler)
    warmed = name in ("constant_with_warmup", "inverse_sqrt", "warmup_stable_decay")
    assert (result[0] == 0) == warmed
    assert max(result) == pytest.approx(1)
    after = result[10] if warmed else result[0]
    assert after == pytest.approx(1)
    middle = {"constant": 1, "constant_with_warmup": 1, "linear": 0.5, "cosine": 0.5,
              "polynomial": 0.25, "cosine_with_restarts": 0.5, "cosine_with_min_lr": 0.55,
              "inverse_sqrt": (10 / 50) ** 0.5, "warmup_stable_decay": 1}  # fmt: skip
    read = name.replace("restarting", "restarts")
    assert result[50] == pytest.approx(middle[read], abs=1e-3)
    rises = sum(b > a + 1e-9 for a, b in pairwise(result))
    assert rises == {True: 10, False: 2 if "restart" in name else 0}[warmed]
    if name == "cosine_with_min_lr":
        assert result[-1] == pytest.approx(0.1, abs=0.01)
    assert ("is read as cosine_with_restarts" in caplog.text) == (name == "cosine_with_restarting")


def test_warmup_in_ratio_steps_or_epochs() -> None:
    for name in ("constant", "cosine"):
        for given in (
            SchedulerConfig(name, warmup_ratio=0.2),
            SchedulerConfig(name, warmup_steps=20),
            SchedulerConfig(name, warmup_epochs=2.0),
        ):
            result = rates(given)
            assert result[:21] == pytest.approx([step / 20 for step in range(21)])


def test_warmup_ratio_is_rounded_down_as_in_kohya() -> None:
    """int(ratio * steps): a tenth of 137 steps is 13."""
    result = rates(SchedulerConfig("constant", warmup_ratio=0.1), 137)
    assert result[:14] == pytest.approx([step / 13 for step in range(14)])
    result = rates(SchedulerConfig("warmup_stable_decay", warmup_ratio=0.1, decay_ratio=0.1), 137)
    assert sum(rate == 1 for rate in result) == 137 - 13 - 13 + 1
    assert result[137 - 13] == 1 > result[137 - 12]


@pytest.mark.parametrize("name", ["cosine_with_min_lr", "warmup_stable_decay"])
def test_cycles_are_half_waves_as_kohya_reads_them(name: str) -> None:
    """1 falls; 2 falls and rises again; the last value shows which."""
    ends = [
        rates(SchedulerConfig(name, num_cycles=n, min_lr_ratio=0.2, decay_ratio=0.5), 200)[-1]
        for n in (1, 2, 3)
    ]
    assert ends == pytest.approx([0.2, 1.0, 0.2], abs=0.01)


def test_each_text_encoder_may_have_its_own_learning_rate(
    dataset: Dataset, trial: Make, tmp_path: Path, xl_folder: Path
) -> None:
    requested = BaseConfig(path=str(xl_folder), device="cpu")
    config = trial(
        base=requested, network=NetworkConfig(rank=2, text_encoder=True), max_steps=2,
        text_encoder_lr=[0, 1e-2],
    )  # fmt: skip
    base = load_base(requested)
    saved = train(base, dataset, TrialSpec(config, tmp_path))[-1].checkpoints[0]
    ups = load_checkpoint(saved.path, base.adapters).up
    moved = {
        name: sum(float(up.abs().sum()) for key, up in ups.items() if key.startswith(f"{name}_"))
        for name in (UNET, *base.family.text_encoders)
    }
    assert moved["lora_te1"] == 0
    assert moved["lora_te2"] > 0 < moved[UNET]
    assert read_metadata(saved.path)["ss_text_encoder_lr"] == "[0, 0.01]"


@pytest.mark.parametrize("rate", [0, -1.0, [0, 0], [1e-4], [1e-4, 1e-4, 1e-4], "fast", True,
                                  float("nan"), [1e-4, float("inf")]])  # fmt: skip
def test_impossible_text_encoder_rates_are_rejected(trial: Make, rate: object) -> None:
    config = trial(network=NetworkConfig(rank=2, text_encoder=True), text_encoder_lr=rate)
    with pytest.raises(ConfigError, match=r"^training.text_encoder_lr: "):
        check_trial(config)
