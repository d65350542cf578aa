"""A trial gets the same result in a pack as alone, whichever trials join, leave or fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from evaluate.generation.generate import generate
from tests.train.conftest import read_final_state, relative_distance
from train.config.schema import (
    BaseConfig,
    DataConfig,
    NetworkConfig,
    SchedulerConfig,
    TrainingConfig,
    TrialConfig,
)
from train.data.dataset import Dataset, load_dataset
from train.loop.schedule import schedule_of
from train.loop.trainer import Trainer, TrainingError, TrialSpec
from train.lora.checkpoint import load_checkpoint
from train.models.base_model import BaseModel

LR = 1e-3
ADAMW: dict[str, Any] = {"_target_": "torch.optim.AdamW", "lr": LR}
OTHERS: list[dict[str, Any]] = [
    {"_target_": "bitsandbytes.optim.AdamW8bit", "lr": LR},
    {"_target_": "bitsandbytes.optim.Lion", "lr": LR / 10},
    {"_target_": "prodigyopt.Prodigy", "lr": 1.0},
    {"_target_": "torch.optim.Adafactor", "lr": LR},  # one that looks at the matrices' shapes
]


@pytest.fixture
def config(base_folder: Path, image_folder: Path) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(path=str(image_folder), resolution=32),
        base=BaseConfig(path=str(base_folder), device="cpu"),
        network=NetworkConfig(rank=4, alpha=2.0, conv_rank=2),
        optimizer=ADAMW,
        training=TrainingConfig(epochs=3, batch_size=2, save_precision="fp32"),
    )


@pytest.fixture(scope="module")
def exact_base(base_folder: Path) -> Iterator[BaseModel]:
    """In float64, where the order of additions makes no difference."""
    torch.set_default_dtype(torch.float64)
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder, dtype=torch.float64)
    yield BaseModel(pipeline, str(base_folder), lambda: "exact", torch.device("cpu"))
    torch.set_default_dtype(torch.float32)


def four_trials(config: TrialConfig) -> list[TrialConfig]:
    """Trials that differ in everything that may differ in a pack."""
    training = replace(config.training, epochs=18)  # of 3 batches: more than 50 steps
    rate = {**ADAMW, "lr": LR / 5}
    return [
        replace(config, training=training),
        replace(
            config,
            network=NetworkConfig(rank=7, alpha=1.0, dropout=0.3),
            training=replace(training, seed=5, caption_dropout=0.4),
            scheduler=SchedulerConfig(name="cosine", warmup_ratio=0.2),
        ),
        replace(
            config,
            network=NetworkConfig(rank=1, conv_rank=5, conv_alpha=1.0),
            training=replace(training, seed=6, gradient_accumulation=2, max_grad_norm=0.01),
            optimizer={"_target_": "torch.optim.Adafactor", "lr": LR},
        ),
        replace(
            config,
            network=NetworkConfig(rank=3, text_encoder=True),
            training=replace(training, seed=7, text_encoder_lr=LR / 2, epochs=9),
            optimizer=rate,
        ),
    ]


def run(base: BaseModel, dataset: Dataset, specs: list[TrialSpec]) -> None:
    for epoch in Trainer(base, dataset, specs):
        assert not epoch.failures


def assert_same_as_separate(
    base: BaseModel, dataset: Dataset, trials: list[TrialConfig], place: Path
) -> None:
    """Trains them in a pack and one by one: random streams, weights and files are the same."""
    run(base, dataset, [TrialSpec(trial, place / f"pack-{i}") for i, trial in enumerate(trials)])
    for i, trial in enumerate(trials):
        run(base, dataset, [TrialSpec(trial, place / f"alone-{i}")])
        single, packed = place / f"alone-{i}", place / f"pack-{i}"
        assert torch.equal(read_final_state(single)["random"], read_final_state(packed)["random"])
        assert relative_distance(packed, single) < 1e-9
        assert {f.name for f in single.iterdir()} == {f.name for f in packed.iterdir()}


def test_four_different_trials_match_separate_training(
    exact_base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    assert_same_as_separate(exact_base, dataset, four_trials(config), tmp_path)


def test_pack_shares_the_sequence_of_buckets(
    exact_base: BaseModel, config: TrialConfig, shapes: Path, tmp_path: Path
) -> None:
    prior = tmp_path / "class"
    shutil.copytree(shapes, prior / "1_puppet")
    data = DataConfig(
        path=str(shapes), resolution=32, buckets=True, flip=True, shuffle_caption=True,
        regularization_path=str(prior), validation_fraction=0, repeats=2,
    )  # fmt: skip
    dataset = load_dataset(data)
    config = replace(config, data=data, training=replace(config.training, epochs=2))
    trials = [
        replace(config, network=NetworkConfig(rank=2), training=replace(config.training, seed=3)),
        replace(config, training=replace(config.training, gradient_accumulation=3, seed=4,
                                         caption_dropout=0.3, prior_loss_weight=0.5)),
    ]  # fmt: skip
    assert_same_as_separate(exact_base, dataset, trials, tmp_path)
    schedule = schedule_of(config, dataset)
    assert set(schedule.plan.buckets) == {(24, 40), (32, 32), (40, 24)}
    assert (schedule.batches, schedule.steps_an_epoch) == (10, 10)


def test_probe_images_of_a_pack_match_separate_generation(
    base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    trials = [replace(trial, training=config.training) for trial in four_trials(config)]
    trials = [replace(trial, optimizer={**ADAMW, "lr": 0.03}) for trial in trials]
    run(base, dataset, [TrialSpec(trial, tmp_path / str(i)) for i, trial in enumerate(trials)])
    files = [tmp_path / str(i) / "lora.safetensors" for i in range(4)]
    adapters = [load_checkpoint(file, base.adapters) for file in files]
    requested = (
        ["a photo of sks puppet", "sks puppet, running", "a puppet"],
        [1, 2, 3],
        32,
        4,
        3.0,
    )
    packed = generate(base, adapters, *requested)
    for adapter, images in zip(adapters, packed, strict=True):
        assert (generate(base, [adapter], *requested)[0] - images).abs().max() < 1 / 255
    assert (packed[0] - packed[1]).abs().max() > 10 / 255, "else there is nothing to compare"


def test_trials_join_and_leave_a_pack(
    exact_base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    first, stopped, second, _ = four_trials(config)
    later = replace(second, training=replace(second.training, epochs=4))
    first = replace(first, training=replace(first.training, epochs=5))
    half = TrialSpec(later, tmp_path / "continued")
    for epoch in Trainer(exact_base, dataset, [half]):
        if epoch.checkpoints[0].epoch == 2:
            break
    trainer = Trainer(exact_base, dataset)
    specs = {"first": trainer.add(TrialSpec(first, tmp_path / "first"))}
    specs["stopped"] = trainer.add(TrialSpec(stopped, tmp_path / "stopped"))
    saved: list[list[tuple[int, int]]] = []
    for epoch in trainer:
        saved.append([(c.index, c.epoch) for c in epoch.checkpoints])
        if len(saved) == 2:
            trainer.stop(specs["stopped"])
            trainer.add(TrialSpec(later, tmp_path / "second"))
        if len(saved) == 4:
            trainer.add(half)
    assert saved == [
        [(0, 1), (1, 1)], [(0, 2), (1, 2)],
        [(0, 3), (2, 1)], [(0, 4), (2, 2)],
        [(3, 2)],  # what was there already
        [(0, 5), (2, 3), (3, 3)], [(2, 4), (3, 4)],
    ]  # fmt: skip
    run(exact_base, dataset, [TrialSpec(first, tmp_path / "first alone")])
    run(exact_base, dataset, [TrialSpec(later, tmp_path / "second alone")])
    assert relative_distance(tmp_path / "first", tmp_path / "first alone") < 1e-9
    assert relative_distance(tmp_path / "second", tmp_path / "second alone") < 1e-9
    assert relative_distance(tmp_path / "continued", tmp_path / "second alone") < 1e-9


def test_failed_trial_does_not_affect_the_others(
    exact_base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    wild = replace(config, optimizer={"_target_": "torch.optim.SGD", "lr": 1e200})
    failures: dict[int, str] = {}
    specs = [TrialSpec(config, tmp_path / "a"), TrialSpec(wild, tmp_path / "b")]
    for epoch in Trainer(exact_base, dataset, specs):
        failures |= epoch.failures
    assert list(failures) == [1]
    assert "learning rate" in failures[1]
    assert not (tmp_path / "b" / "lora.safetensors").exists()
    run(exact_base, dataset, [TrialSpec(config, tmp_path / "alone")])
    assert relative_distance(tmp_path / "a", tmp_path / "alone") < 1e-9


def test_trial_with_nan_weights_does_not_affect_the_others(
    exact_base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    """The losses are finite, but the weights overflow the precision of the file."""
    training = replace(config.training, save_precision="fp16", max_steps=1)
    wild = replace(
        config, optimizer={"_target_": "torch.optim.AdamW", "lr": 1e6}, training=training
    )
    specs = [TrialSpec(config, tmp_path / "a"), TrialSpec(wild, tmp_path / "b")]
    epochs = list(Trainer(exact_base, dataset, specs))
    failures = {spec: message for epoch in epochs for spec, message in epoch.failures.items()}
    assert list(failures) == [1]
    assert "too large for float16 after epoch 1" in failures[1]
    assert "learning rate that is too high (1e+06)" in failures[1]
    assert not list((tmp_path / "b").glob("*.safetensors"))
    assert not list((tmp_path / "b").glob("*state*"))
    assert (tmp_path / "a" / "lora.safetensors").is_file()


def test_every_optimizer_in_one_pack(
    base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    training = replace(config.training, epochs=1)
    trials = [replace(config, optimizer=o, training=training) for o in (ADAMW, *OTHERS)]
    specs = [TrialSpec(trial, tmp_path / f"pack-{i}") for i, trial in enumerate(trials)]
    run(base, dataset, specs)
    for i, trial in enumerate(trials):
        run(base, dataset, [TrialSpec(trial, tmp_path / f"alone-{i}")])
        assert relative_distance(tmp_path / f"pack-{i}", tmp_path / f"alone-{i}") < 1e-2, (
            trial.optimizer
        )
    assert relative_distance(tmp_path / "pack-0", tmp_path / "pack-1") > 0


def test_incompatible_trials_cannot_join_a_pack(
    base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    trainer = Trainer(base, dataset, [TrialSpec(config, tmp_path / "a")])
    other = replace(config, training=replace(config.training, batch_size=4))
    with pytest.raises(TrainingError, match="batch size"):
        trainer.add(TrialSpec(other, tmp_path / "b"))
