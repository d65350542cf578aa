"""The trainer: same bytes when repeated or interrupted; files that other programs can read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from train.config.schema import (
    BaseConfig,
    DataConfig,
    NetworkConfig,
    SchedulerConfig,
    TrainingConfig,
    TrialConfig,
)
from train.data.dataset import Dataset, load_dataset
from train.errors import CheckpointError
from train.loop.trainer import Epoch, Trainer, TrialSpec
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import epoch_of, read_metadata, weights_hash
from train.models.base_model import BaseModel


@pytest.fixture
def config(base_folder: Path, image_folder: Path) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(path=str(image_folder), resolution=32),
        base=BaseConfig(path=str(base_folder), device="cpu"),
        network=NetworkConfig(rank=4, alpha=2.0, conv_rank=2),
        optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-3},
        scheduler=SchedulerConfig(name="cosine", warmup_ratio=0.2),
        training=TrainingConfig(epochs=4, batch_size=2, gradient_accumulation=2),
    )


def train(base: BaseModel, dataset: Dataset, *members: TrialSpec, until: int = 99) -> list[Epoch]:
    epochs = []
    for epoch in Trainer(base, dataset, list(members)):
        epochs.append(epoch)
        if epoch.checkpoints and epoch.checkpoints[0].epoch == until:
            break
    return epochs


def test_same_bytes_when_repeated_and_when_interrupted(
    base: BaseModel, dataset: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    epochs = train(base, dataset, TrialSpec(config, tmp_path / "whole"))
    train(base, dataset, TrialSpec(config, tmp_path / "broken"), until=2)
    continued = train(base, dataset, TrialSpec(config, tmp_path / "broken"))
    assert [e.checkpoints[0].epoch for e in epochs] == [1, 2, 3, 4]
    assert [e.checkpoints[0].epoch for e in continued] == [2, 3, 4], (
        "the last saved epoch comes first again"
    )
    assert continued[0].checkpoints[0] == train_loss_of(epochs[1], tmp_path / "broken")
    for epoch in epochs:
        name = epoch.checkpoints[0].path.name
        full, broken = (tmp_path / run / name for run in ("whole", "broken"))
        assert full.read_bytes() == broken.read_bytes(), name
    hashes = [weights_hash(e.checkpoints[0].path) for e in epochs]
    assert all(a != b for a, b in pairwise(hashes)), "every epoch changes the weights"


def train_loss_of(epoch: Epoch, folder: Path) -> Any:
    saved = epoch.checkpoints[0]
    return type(saved)(**{**vars(saved), "path": folder / saved.path.name})


def test_kohya_file_loads_in_diffusers_with_the_same_delta(
    base: BaseModel, dataset: Dataset, config: TrialConfig, base_folder: Path, tmp_path: Path
) -> None:
    config.training.epochs, config.network.text_encoder = 2, True
    config.training.save_precision = "fp32"
    train(base, dataset, TrialSpec(config, tmp_path))
    path = tmp_path / "lora.safetensors"
    metadata = read_metadata(path)
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_network_alpha"] == "2.0"
    assert (epoch_of(path), epoch_of(tmp_path / "lora-000001.safetensors")) == (2, 1)

    latents, times = torch.randn(1, *base.latent_shape(64)), torch.tensor([500])
    adapter = load_checkpoint(path, base.adapters)
    prompt = ["a photo of sks puppet"]
    with torch.no_grad(), base.adapters.activated([adapter]):
        ours = base.unet(latents, times, **base.encode_text(prompt)).sample
    with torch.no_grad():
        without_lora = base.unet(latents, times, **base.encode_text(prompt)).sample
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder)
    pipeline.load_lora_weights(path)
    with torch.no_grad():
        text, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
        reference = pipeline.unet(latents, times, text).sample
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-4)
    assert (ours - without_lora).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lora.ckpt", b"\x80\x04pickle", "pickle"),
        ("lora.safetensors", b"\x80\x04pickle", "not a readable safetensors"),
    ],
)
def test_file_that_is_not_a_lora_is_rejected(
    base: BaseModel, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / name, base.adapters)
    with pytest.raises(CheckpointError, match="no file"):
        load_checkpoint(tmp_path / "absent.safetensors", base.adapters)


def test_regularization_images_are_weighted_and_not_counted_as_the_subject(
    base: BaseModel, config: TrialConfig, shapes: Path, image_folder: Path, tmp_path: Path
) -> None:
    def lora(prior: Path | None, weight: float) -> str:
        path = None if prior is None else str(prior)
        data = replace(config.data, path=str(shapes), regularization_path=path,
                       validation_fraction=0.0)  # fmt: skip
        training = TrainingConfig(epochs=2, batch_size=2, prior_loss_weight=weight)
        trial = replace(config, data=data, training=training, network=NetworkConfig(rank=2))
        folder = tmp_path / f"{path and Path(path).name}-{weight}"
        train(base, load_dataset(data), TrialSpec(trial, folder))
        metadata = read_metadata(folder / "lora.safetensors")
        assert metadata["ss_num_train_images"] == "5"
        assert metadata["ss_num_reg_images"] == ("0" if prior is None else "5")
        return weights_hash(folder / "lora.safetensors")

    one, other = tmp_path / "one", tmp_path / "other"
    for folder, first in ((one, 0), (other, 2)):
        folder.mkdir()
        for i in range(first, first + 5):
            shutil.copy(image_folder / f"{i}.jpg", folder)
    assert lora(one, 0.0) == lora(other, 0.0), "which they are makes no difference any more"
    assert len({lora(one, 0.0), lora(one, 1.0), lora(other, 1.0), lora(None, 1.0)}) == 4
