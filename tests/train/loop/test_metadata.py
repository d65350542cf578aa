"""The metadata of LoRA files; files are written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save

from train.config.schema import (
    BaseConfig,
    DataConfig,
    NetworkConfig,
    SchedulerConfig,
    TrainingConfig,
    TrialConfig,
)
from train.data.dataset import load_dataset
from train.errors import CheckpointError
from train.files import permissions
from train.files.atomic_write import write_atomically
from train.loop.file_metadata import metadata
from train.loop.schedule import schedule_of
from train.lora.checkpoint import load_checkpoint, save_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseModel


@pytest.fixture
def about(base: BaseModel, image_folder: Path, tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "3_sks puppet"
    shutil.copytree(image_folder, folder)
    (folder / "0.txt").write_text("sks puppet, Red hat,  outside,")
    (folder / "1.txt").write_text("sks puppet, red hat")
    config = TrialConfig(
        data=DataConfig(path=str(folder), resolution=32, repeats=3, validation_fraction=0.0),
        base=BaseConfig(path=str(base.path), device="cpu"),
        network=NetworkConfig(rank=4, alpha_ratio=0.5, conv_rank=2),
        optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-3, "weight_decay": 0.1},
        scheduler=SchedulerConfig(name="cosine", warmup_ratio=0.1),
        training=TrainingConfig(
            epochs=4, batch_size=2, gradient_accumulation=2, min_snr_gamma=5.0,
            noise_offset=0.05, caption_dropout=0.1,
        ),
    )  # fmt: skip
    dataset = load_dataset(config.data)
    return metadata(config, "me", base, dataset, schedule_of(config, dataset), 3)


def test_kohyas_metadata_keys(about: dict[str, str], base: BaseModel) -> None:
    assert all(isinstance(value, str) for value in about.values())
    expected = {
        "network_module": "networks.lora", "network_dim": "4", "network_alpha": "2.0",
        "network_args": '{"conv_dim": "2", "conv_alpha": "1.0"}', "network_dropout": "None",
        "base_model_version": "sd_v1", "v2": "False", "clip_skip": "1", "output_name": "me",
        "new_sd_model_hash": base.fingerprint, "epoch": "3", "steps": "18", "num_epochs": "4",
        "max_train_steps": "24", "num_batches_per_epoch": "11", "num_train_images": "21",
        "batch_size_per_device": "2", "total_batch_size": "4", "gradient_accumulation_steps": "2",
        "learning_rate": "0.001", "unet_lr": "0.001", "text_encoder_lr": "None",
        "optimizer": "torch.optim.AdamW(weight_decay=0.1)", "lr_scheduler": "cosine",
        "lr_warmup_steps": "2", "min_snr_gamma": "5.0", "noise_offset": "0.05",
        "caption_dropout_rate": "0.1", "mixed_precision": "no", "resolution": "(32, 32)",
        "prior_loss_weight": "1.0", "gradient_checkpointing": "False", "flip_aug": "False",
    }  # fmt: skip
    assert {key: about[f"ss_{key}"] for key in expected} == expected
    assert json.loads(about["ss_dataset_dirs"]) == {
        "3_sks puppet": {"n_repeats": 3, "img_count": 7}
    }
    tags = json.loads(about["ss_tag_frequency"])["3_sks puppet"]
    assert (tags["red hat"], tags["outside"]) == (2, 1)
    assert about["modelspec.sai_model_spec"] == "1.0.1"
    assert about["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert about["modelspec.resolution"] == "32x32"


def test_only_source_date_epoch_sets_times(
    base: BaseModel, about: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not {"ss_training_started_at", "modelspec.date"} & about.keys()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    config = TrialConfig(base=BaseConfig(device="cpu"), optimizer={"_target_": "x.Y", "lr": 1.0})
    dataset = load_dataset(config.data)
    timed = metadata(config, "me", base, dataset, schedule_of(config, dataset), 1)
    assert float(timed["ss_training_started_at"]) == 1_700_000_000
    assert timed["modelspec.date"] == "2023-11-14T22:13:20+00:00"


def test_metadata_has_the_effective_learning_rate(base: BaseModel) -> None:
    """LR-free optimizers such as Prodigy use 1 instead of the given rate."""
    config = TrialConfig(optimizer={"_target_": "prodigyopt.Prodigy", "lr": 0.1})
    dataset = load_dataset(config.data)
    message = metadata(config, "me", base, dataset, schedule_of(config, dataset), 1)
    assert (message["ss_learning_rate"], message["ss_unet_lr"]) == ("1.0", "1.0")


def test_metadata_has_the_sizes_of_a_dataset_config(
    base: BaseModel, image_folder: Path, tmp_path: Path
) -> None:
    """Not those of `data`, which it overrides."""
    permissions.allow([image_folder])
    (tmp_path / "data.toml").write_text(
        "[[datasets]]\nresolution = [48, 32]\nenable_bucket = true\nbucket_reso_steps = 8\n"
        "min_bucket_reso = 24\nmax_bucket_reso = 80\n[[datasets.subsets]]\n"
        f"image_dir = '{image_folder}'\n"
    )
    data = DataConfig(dataset_config=str(tmp_path / "data.toml"), validation_fraction=0.0)
    config = TrialConfig(data=data, optimizer={"_target_": "x.Y", "lr": 1.0})
    dataset = load_dataset(data)
    message = metadata(config, "me", base, dataset, schedule_of(config, dataset), 1)
    expected = {
        "ss_enable_bucket": "True", "ss_min_bucket_reso": "24", "ss_max_bucket_reso": "80",
        "ss_resolution": "(48, 32)", "modelspec.resolution": "48x32",
    }  # fmt: skip
    assert {key: message[key] for key in expected} == expected
    assert json.loads(message["ss_bucket_info"])["buckets"] == {
        "0": {"resolution": [40, 32], "count": 1},
        "1": {"resolution": [48, 32], "count": 6},
    }


def test_hashes_match_kohyas(base: BaseModel, about: dict[str, str], tmp_path: Path) -> None:
    """Against a file with only the ss_ keys, saved again; over 1 MiB, with non-ASCII letters."""
    network, random = NetworkConfig(rank=320, text_encoder=True), torch.Generator().manual_seed(0)
    adapter, path = base.adapters.create(network, random), tmp_path / "x.safetensors"
    save_checkpoint(path, adapter, {**about, "ss_tag_frequency": "é猫"}, torch.float32)
    result, tensors = read_metadata(path), load_file(path)
    content = save(tensors, {k: v for k, v in result.items() if k.startswith("ss_")})
    assert len(content) > 0x110000
    header = int.from_bytes(content[:8], "little")
    body = path.read_bytes()[8 + int.from_bytes(path.read_bytes()[:8], "little") :]
    assert result["sshs_model_hash"] == hashlib.sha256(content[8 + header :]).hexdigest()
    assert result["sshs_model_hash"] == hashlib.sha256(body).hexdigest(), "of the file itself too"
    part = content[1024 * 1024 :][: 64 * 1024]
    assert result["sshs_legacy_hash"] == hashlib.sha256(part).hexdigest()[:8]
    loaded = load_checkpoint(path, base.adapters)
    assert all(torch.equal(loaded.down[key], down) for key, down in adapter.down.items())


def test_concurrent_writers_do_not_fail_and_the_last_one_wins(tmp_path: Path) -> None:
    file, contents = tmp_path / "data.png", [bytes([n]) * 100_000 for n in range(4)]
    with ThreadPoolExecutor(len(contents)) as batched:
        for _ in range(20):
            list(batched.map(lambda content: write_atomically(file, content), contents))
            assert file.read_bytes() in contents
    assert [f.name for f in tmp_path.iterdir()] == ["data.png"]


def test_full_disk_leaves_the_old_file_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lora.safetensors"
    write_atomically(file, b"old")
    usage = SimpleNamespace(total=10**9, used=10**9 - 500_000, free=500_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(CheckpointError, match=r"it takes 1.0 MB, 0.5 MB are free$"):
            write_atomically(file, bytes(1_000_000))
    assert [f.name for f in tmp_path.iterdir()] == ["lora.safetensors"]
    # a write that breaks off in the middle, whatever was said to be free
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"lora.safetensors cannot be written: .*large"):
            write_atomically(file, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [f.name for f in tmp_path.iterdir()] == ["lora.safetensors"]
    assert file.read_bytes() == b"old"
