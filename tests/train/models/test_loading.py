"""The source of a base; it is loaded once per process, shared, and not modified."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers.pipelines.pipeline_utils as downloading
import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from tests.train.conftest import train, train_config
from train.config.schema import BaseConfig, NetworkConfig, TrialConfig
from train.data.dataset import Dataset
from train.loop.train_one import main
from train.loop.trainer import TrialSpec
from train.lora.checkpoint_file import read_metadata, weights_hash
from train.models import base_model as loading
from train.models import model_files
from train.models.base_model import BaseError, BaseModel, load_base
from train.models.model_files import open_pipeline

Make = Callable[..., TrialConfig]
HUB_ID = "somebody/tiny"


class Hub:
    """A fake huggingface_hub with one repository, and the folder of its files."""

    def __init__(self, repository: Path, kept: Path) -> None:
        self.repository, self.kept = repository, kept
        files = sorted(file for file in repository.rglob("*") if file.is_file())
        self.names = [file.relative_to(repository).as_posix() for file in files]

    def model_info(self, name: str, **options: Any) -> SimpleNamespace:
        assert name == HUB_ID
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in self.names])

    def hf_hub_download(self, name: str, file: str, **options: Any) -> str:
        assert name == HUB_ID
        (self.kept / file).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(self.repository / file, self.kept / file))

    def snapshot_download(
        self, name: str, allow_patterns: list[str], ignore_patterns: list[str], **options: Any
    ) -> str:
        wanted = filter_repo_objects(
            self.names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for file in wanted:
            self.hf_hub_download(name, file)
        return str(self.kept)


@pytest.fixture
def hub(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a copy of the base on a hub, also with or only as pickles; returns its folder."""

    def made(safetensors: bool = True) -> Path:
        repository, remaining = tmp_path / "repository", tmp_path / "kept"
        shutil.copytree(base_folder, repository)
        for file in repository.rglob("*.safetensors"):
            name = "pytorch_model" if file.stem == "model" else file.stem
            file.with_name(f"{name}.bin").write_bytes(b"a pickle")
            if not safetensors:
                file.unlink()
        fake = Hub(repository, remaining)
        for name in ("model_info", "hf_hub_download", "snapshot_download"):
            monkeypatch.setattr(downloading, name, getattr(fake, name))
        monkeypatch.setattr(model_files, "hf_hub_download", fake.hf_hub_download)
        monkeypatch.setattr(downloading, "_resolve_revision", lambda *a, **k: None, raising=False)
        return remaining

    return made


def test_hub_id_is_downloaded_without_pickles(
    hub: Callable[..., Path], trial: Make, base_folder: Path, tmp_path: Path
) -> None:
    remaining = hub()
    for name, path in (("hub", HUB_ID), ("folder", str(base_folder))):
        config = trial(epochs=1, base=BaseConfig(path=path, device="cpu"))
        main(train_config(config, tmp_path / name))
    files = [tmp_path / name / "lora.safetensors" for name in ("hub", "folder")]
    assert weights_hash(files[0]) == weights_hash(files[1])
    metadata, other = map(read_metadata, files)
    assert metadata["ss_sd_model_name"] == "tiny"
    assert metadata["lorasweep_base"] == other["lorasweep_base"], "known by its weights"
    assert (remaining / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert not list(remaining.rglob("*.bin"))


def test_missing_hub_files_are_named(
    hub: Callable[..., Path], base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        refused(HUB_ID, f"{HUB_ID} is neither on disk nor available from the hub: ")
    with monkeypatch.context() as patch:
        index = str(base_folder / "model_index.json")
        patch.setattr(model_files, "hf_hub_download", lambda *_: index)
        patch.setattr(downloading, "model_info", unreachable)
        refused(HUB_ID, "nor available from the hub: Name or service not known")
    remaining = hub(safetensors=False)
    refused(HUB_ID, f"{HUB_ID} has no .safetensors file; its weights are pickles")
    for path in ("somebody/tiny.safetensors", "./somebody", "~/tiny", "/somebody", "a/b/c"):
        refused(path, f"there is no file or folder {path}")
    assert not list(remaining.rglob("*.bin"))


def unreachable(name: str, **options: Any) -> None:
    raise downloading.httpx.ConnectError("Name or service not known")


def refused(path: str, words: str) -> None:
    with pytest.raises(BaseError) as error:
        load_base(BaseConfig(path=path, device="cpu"))
    assert str(error.value).startswith("base.path: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_trials_of_a_process_share_one_base(
    trial: Make, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(shutil.copytree(base_folder, tmp_path / "base"))
    base = BaseConfig(path=path, device="cpu")
    loaded: list[torch.dtype] = []

    def watched(source: Path, dtype: torch.dtype) -> Any:
        loaded.append(dtype)
        return open_pipeline(source, dtype)

    monkeypatch.setattr(loading, "open_pipeline", watched)
    main(train_config(trial(epochs=1, base=base), tmp_path / "first"))
    second = trial(epochs=1, base=replace(base), seed=5, network=NetworkConfig(rank=3))
    main(train_config(second, tmp_path / "second"))
    assert load_base(replace(base)) is load_base(base)
    assert loaded == [torch.float32]
    other = load_base(replace(base, precision="bf16"))
    assert (loaded, other.dtype) == ([torch.float32, torch.bfloat16], torch.bfloat16)


def test_training_does_not_change_the_base(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    networks = [base.unet, base.vae, *base.text_encoders]
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    network = NetworkConfig(rank=2, conv_rank=2, text_encoder=True)
    optimizer = {"_target_": "torch.optim.AdamW", "lr": 0.1}
    config = trial(epochs=1, network=network, optimizer=optimizer)
    assert not train(base, dataset, TrialSpec(config, tmp_path))[0].failures
    for remaining, one in zip(before, networks, strict=True):
        assert not one.training
        assert not any(p.requires_grad or p.grad is not None for p in one.parameters())
        now = one.state_dict()
        assert remaining.keys() == now.keys()
        assert all(torch.equal(remaining[key], now[key]) for key in remaining)
