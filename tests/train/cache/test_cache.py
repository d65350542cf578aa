"""Cached latents and embeddings: computed once, found by content, the same bytes everywhere."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from train.cache import latent_cache, tensor_cache
from train.cache.latent_cache import EncodedDataset, encode_dataset
from train.cache.tensor_cache import TensorCache
from train.config.schema import BaseConfig, DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from train.data.dataset import load_dataset
from train.data.images.cropping import cropped
from train.data.images.image import DataError
from train.loop.trainer import Trainer, TrialSpec
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseModel, load_base


@pytest.fixture
def config(base_folder: Path, shapes: Path, tmp_path: Path) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(path=str(shapes), resolution=32, buckets=True, validation_fraction=0,
                        repeats=2),
        base=BaseConfig(path=str(base_folder), device="cpu"),
        network=NetworkConfig(rank=2),
        optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-3},
        training=TrainingConfig(epochs=2, batch_size=2, caption_dropout=0.3),
        cache_path=str(tmp_path / "kept"),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def clear_caches() -> None:
    """Clears what other tests of this process have cached in memory."""
    latent_cache._recent_datasets.clear()
    tensor_cache._entries_in_use.clear()


def train(base: BaseModel, config: TrialConfig, folder: Path) -> bytes:
    for epoch in Trainer(base, load_dataset(config.data), [TrialSpec(config, folder)]):
        assert not epoch.failures
    return (folder / "lora.safetensors").read_bytes()


def encode(base: BaseModel, config: TrialConfig, clear_memory: bool = True) -> EncodedDataset:
    if clear_memory:  # as another process would find it
        latent_cache._recent_datasets.clear()
    return encode_dataset(base, load_dataset(config.data), config)


def log_messages(caplog: pytest.LogCaptureFixture) -> str:
    line = [record.getMessage() for record in caplog.records][-1]
    caplog.clear()
    return line


def test_same_lora_with_every_kind_of_cache(
    base: BaseModel, config: TrialConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="train.cache.latent_cache")
    data = replace(config.data, shuffle_caption=True, keep_tokens=1, flip=True)
    config = replace(config, data=data)
    memory = train(base, config, tmp_path / "memory")
    assert log_messages(caplog) == "latents: 0 from the cache, 10 encoded; " + TEXTS.format(0, 2)
    repeated = train(base, config, tmp_path / "again")
    assert log_messages(caplog) == "latents: 10 from the cache, 0 encoded; " + TEXTS.format(2, 0)
    latent_cache._recent_datasets.clear()
    disk = train(base, replace(config, cache="disk"), tmp_path / "disk")
    assert log_messages(caplog) == "latents: 0 from the cache, 10 encoded; " + TEXTS.format(0, 2)
    latent_cache._recent_datasets.clear()
    later = train(base, replace(config, cache="disk"), tmp_path / "later")
    assert log_messages(caplog) == "latents: 10 from the cache, 0 encoded; " + TEXTS.format(2, 0)
    off = train(base, replace(config, cache="off"), tmp_path / "off")
    assert len({memory, repeated, disk, later, off}) == 1
    assert train(base, replace(config, data=replace(data, flip=False)), tmp_path / "x") != memory


def test_bucketed_epoch_resumes_to_the_same_bytes(
    base: BaseModel, config: TrialConfig, tmp_path: Path
) -> None:
    data = replace(config.data, shuffle_caption=True, flip=True,
                   regularization_path=config.data.path)  # fmt: skip
    config = replace(config, data=data)
    full = train(base, config, tmp_path / "whole")
    steps = iter([False] * 14)  # of 10 an epoch
    dataset, spec = load_dataset(data), TrialSpec(config, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        list(Trainer(base, dataset, [spec], should_stop=lambda: next(steps, True)))
    state = torch.load(tmp_path / "broken" / "lora-state.pt", weights_only=True)
    assert (state["epoch"], len(state["order"])) == (1, 3)
    assert 0 < state["shown"] < 20
    assert train(base, config, tmp_path / "broken") == full


def test_metadata_and_sdxl_get_the_sizes(
    base: BaseModel, config: TrialConfig, tmp_path: Path
) -> None:
    train(base, config, tmp_path)
    metadata = read_metadata(tmp_path / "lora.safetensors")
    assert json.loads(metadata["ss_bucket_info"])["buckets"] == {
        "0": {"resolution": [24, 40], "count": 4},
        "1": {"resolution": [32, 32], "count": 2},
        "2": {"resolution": [40, 24], "count": 4},
    }
    assert metadata["ss_num_train_images"] == "10"
    assert json.loads(metadata["ss_dataset_dirs"]) == {
        Path(config.data.path).name: {"n_repeats": 2, "img_count": 5}
    }
    sizes = encode(base, config).sizes
    assert sizes[0].tolist() == [40, 60, 1, 0, 24, 40], "of 60x40 scaled to 40x27"
    assert sizes[2].tolist() == [50, 50, 0, 0, 32, 32]


TEXTS = "captions: {} from the cache, {} encoded"


def test_disk_cache_is_never_stale(
    base: BaseModel,
    config: TrialConfig,
    shapes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="train")
    shutil.copytree(shapes, tmp_path / "p")
    data = replace(config.data, path=str(tmp_path / "p"))
    config = replace(config, data=data, cache="disk")
    encode(base, config)
    caplog.clear()
    shutil.copy(tmp_path / "p" / "1.png", tmp_path / "p" / "0.png")  # another image by that name
    encode(base, config)
    assert log_messages(caplog).startswith("latents: 5 from the cache, 0 encoded"), (
        "known by content"
    )
    Image.new("RGB", (60, 40)).save(tmp_path / "p" / "0.png")
    encode(base, config)
    assert log_messages(caplog).startswith("latents: 4 from the cache, 1 encoded")
    encode(base, replace(config, data=replace(data, resolution=40)))
    assert log_messages(caplog).startswith("latents: 0 from the cache, 5 encoded")
    file = next((tmp_path / "kept").rglob("*.safetensors"))
    full = file.read_bytes()
    file.write_bytes(full[: len(full) // 2])
    encode(base, config)
    encode(base, replace(config, data=replace(data, resolution=40)))
    assert f"{file} is damaged and is recreated" in caplog.text
    assert file.read_bytes() == full


def test_disk_cache_depends_on_base_and_precision(
    config: TrialConfig, base_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another base, precision or layer has its own entries; a copy of the base shares them."""
    caplog.set_level(logging.INFO, logger="train.cache.latent_cache")
    same, moved, other = str(base_folder), tmp_path / "moved", tmp_path / "other"
    for folder in (moved, other):
        shutil.copytree(base_folder, folder)
    for file in (*other.glob("vae/*.safetensors"), *other.glob("text_encoder/*.safetensors")):
        save_file({key: 1.1 * weight for key, weight in load_file(file).items()}, file)
    for settings in (
        {"path": same}, {"path": str(other)}, {"path": same, "precision": "bf16"},
        {"path": same, "clip_skip": 2}, {"path": str(moved)},
    ):  # fmt: skip
        caplog.clear()
        remaining = encode_with(replace(config, cache="disk"), **settings)
        result = "latents: 5 from the cache, 0 encoded; " + TEXTS.format(2, 0)
        assert (log_messages(caplog) == result) == (settings["path"] == str(moved))
        fresh = encode_with(replace(config, cache="off"), **settings)
        random, captions = torch.Generator(), [remaining.images[0].caption, ""]
        mean, std = remaining.latents_of([0], random)
        assert torch.equal(mean, fresh.latents_of([0], random)[0]), settings
        assert torch.equal(std, fresh.latents_of([0], random)[1]), settings
        text, expected = remaining.conditioning(captions), fresh.conditioning(captions)
        assert all(torch.equal(text[name], expected[name]) for name in expected), settings


def encode_with(config: TrialConfig, **settings: Any) -> EncodedDataset:
    chosen = BaseConfig(device="cpu", **settings)
    return encode(load_base(chosen), replace(config, base=chosen))


def test_vae_in_another_precision_has_its_own_cached_latents(
    config: TrialConfig, xl_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In fp16 SDXL's autoencoder stays in fp32, unless its config says that this is not needed."""
    caplog.set_level(logging.INFO, logger="train.cache.latent_cache")
    plain = shutil.copytree(xl_folder, tmp_path / "plain")
    metadata = json.loads((plain / "vae" / "config.json").read_text())
    (plain / "vae" / "config.json").write_text(json.dumps({**metadata, "force_upcast": False}))
    config = replace(config, cache="disk")
    encode_with(config, path=str(xl_folder), precision="fp16")
    caplog.clear()
    encode_with(config, path=str(plain), precision="fp16")
    assert log_messages(caplog) == "latents: 0 from the cache, 5 encoded; " + TEXTS.format(2, 0)


def _work(folder: Path, created: Path) -> None:
    cache = TensorCache(folder)
    with cache.exclusive():
        for key in map(str, range(20)):
            entry = cache.fetch(key, lambda key=key: _make(created, key))  # type: ignore[misc]
            assert entry.tensors["x"].item() == int(key)


def _make(created: Path, key: str) -> dict[str, torch.Tensor]:
    with created.open("a") as stream:
        stream.write(f"{key}\n")
    return {"x": torch.tensor([float(key)])}


def test_concurrent_workers_share_the_cache(tmp_path: Path) -> None:
    workers = [
        multiprocessing.get_context("fork").Process(
            target=_work, args=(tmp_path / "kept", tmp_path / "made")
        )
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sorted(map(int, (tmp_path / "made").read_text().split())) == list(range(20))


def test_unwritable_cache_folder_does_not_stop_training(
    base: BaseModel, config: TrialConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("a file in the way")
    assert encode(base, replace(config, cache="disk")).latents
    assert "keeps what it computes in memory" in caplog.text


def test_fixed_latents_are_sampled_once_per_image(base: BaseModel, config: TrialConfig) -> None:
    sampled = encode(base, config)
    fixed = encode(base, replace(config, data=replace(config.data, resample_latents=False)))
    random = torch.Generator()
    (mean, std), (generated, none) = (data.latents_of([0], random) for data in (sampled, fixed))
    assert not none.any()
    assert ((generated - mean) / std).std() == pytest.approx(1, abs=0.15)
    assert torch.equal(fixed.latents_of([0], random)[0], generated)
    other = fixed.latents_of([3], random)[0]
    assert other.shape == generated.shape
    assert not torch.equal((other - sampled.latents_of([3], random)[0]), generated - mean)


def test_variants_are_sampled_from_the_trials_generator(
    base: BaseModel, config: TrialConfig
) -> None:
    data = replace(config.data, flip=True, shuffle_caption=True, keep_tokens=2)
    encoded = encode(base, replace(config, data=data))
    captions = [
        [encoded.sample_captions([0, 1], 0.0, torch.Generator().manual_seed(seed))[0]]
        for seed in (0, 0, *range(1, 20))
    ]
    assert captions[0] == captions[1]
    spoken = {caption for (caption,) in captions}
    assert len(spoken) == 6, "of three parts after the two that are kept"
    assert all(caption.startswith("sks puppet, a, ") for caption in spoken)
    plain, flipped = (encoded.latents[0, flip].tensors["mean"] for flip in (False, True))
    pixels = cropped(encoded.images[0], encoded.crops[0]).flip(-1).unsqueeze(0)
    assert torch.equal(latent_cache.encode_latents(base, pixels)[0][0], flipped)
    output = [encoded.latents_of([0], torch.Generator().manual_seed(s))[0][0] for s in range(20)]
    assert 3 < sum(torch.equal(one, flipped) for one in output) < 17
    assert all(torch.equal(one, flipped) or torch.equal(one, plain) for one in output)


def test_color_jitter_requires_cache_off(base: BaseModel, config: TrialConfig) -> None:
    data = replace(config.data, color_augmentation=True)
    with pytest.raises(DataError, match="cache=off"):
        encode(base, replace(config, data=data))
    free = encode(base, replace(config, data=data, cache="off"))
    without_lora = encode(base, config).latents[0, False].tensors["mean"]
    means = [free.latents_of([0], torch.Generator().manual_seed(s))[0][0] for s in range(24)]
    repeated = [free.latents_of([0], torch.Generator().manual_seed(s))[0][0] for s in range(24)]
    assert all(torch.equal(one, other) for one, other in zip(means, repeated, strict=True))
    changed = [mean for mean in means if not torch.equal(mean, without_lora)]
    assert 2 < len(changed) < 16
    assert all((mean - without_lora).abs().mean() < without_lora.std() for mean in changed)


def test_unsupported_size_is_named(base: BaseModel, config: TrialConfig) -> None:
    data = replace(config.data, buckets=False, resolution=33)
    with pytest.raises(DataError, match="33x33 pixels; this base takes multiples of 2"):
        encode(base, replace(config, data=data))
