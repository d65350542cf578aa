"""Averages of LoRAs and their strengths, as files that do at strength 1 what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluate.variants.lora_file import averaged, has_variant, write_variant
from train.config.schema import NetworkConfig
from train.errors import CheckpointError
from train.lora.adapter import Adapter
from train.lora.checkpoint import load_checkpoint, save_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseModel

NETWORKS = (
    NetworkConfig(rank=4, alpha=2.0),
    NetworkConfig(rank=4, conv_rank=2, conv_alpha=1.0, text_encoder=True),
)


def changes(adapter: Adapter) -> dict[str, Tensor]:
    """By how much each weight of the base changes, as matrices."""
    return {
        key: up.flatten(1) @ down.flatten(1) * (adapter.alpha[key] / len(down))
        for key, (down, up) in adapter.matrices.items()
    }


def random_lora(base: BaseModel, network: NetworkConfig, seed: int, rank: int = 4) -> Adapter:
    """A LoRA of which only the first `rank` directions do anything."""
    random = torch.Generator().manual_seed(seed)
    adapter = base.adapters.create(network, random)
    for down, up in adapter.matrices.values():
        up.copy_(torch.randn(up.shape, generator=random) * 0.1)
        up[:, rank:] = 0
        assert down.shape[0] == up.shape[1]
    return adapter


@pytest.mark.parametrize("network", NETWORKS)
def test_the_average_is_exact_if_the_rank_suffices(base: BaseModel, network: NetworkConfig) -> None:
    rank = 1 if network.conv_rank else 2
    loras = [random_lora(base, network, seed, rank) for seed in (1, 2)]
    expected = [changes(lora) for lora in loras]
    for key, change in changes(averaged(loras)).items():
        torch.testing.assert_close(change, (expected[0][key] + expected[1][key]) / 2)
    weaker = changes(averaged(loras[:1], strength=0.7))
    for key, change in weaker.items():
        torch.testing.assert_close(change, expected[0][key] * 0.7)


def test_the_average_is_the_nearest_of_its_rank(base: BaseModel) -> None:
    loras = [random_lora(base, NETWORKS[0], seed) for seed in (1, 2, 3)]
    expected = [changes(lora) for lora in loras]
    average = averaged(loras, strength=0.5)
    for key, change in changes(average).items():
        mean = sum(each[key] for each in expected) / 3 * 0.5
        assert isinstance(mean, Tensor)
        assert len(average.down[key]) == 4
        nearest = torch.linalg.svdvals(mean)[4:].square().sum().sqrt()
        torch.testing.assert_close((change - mean).norm(), nearest, rtol=1e-4, atol=1e-5)


def test_the_file_of_a_variant_is_a_lora_like_any_other(base: BaseModel, tmp_path: Path) -> None:
    files = [tmp_path / f"lora-{number:06d}.safetensors" for number in (1, 2)]
    loras = [random_lora(base, NETWORKS[1], seed) for seed in (1, 2)]
    for file, lora in zip(files, loras, strict=True):
        metadata = {"ss_output_name": "lora", "ss_network_args": "{}", "ss_network_alpha": "4.0",
                    "lora_adapter_metadata": "{}"}  # fmt: skip
        save_checkpoint(file, lora, metadata, torch.float16)
    variant = tmp_path / "variant.safetensors"
    write_variant(variant, files, 0.8, "their hashes", base.adapters)
    expected = changes(averaged([load_checkpoint(f, base.adapters) for f in files], 0.8))
    for key, change in changes(load_checkpoint(variant, base.adapters)).items():
        assert (change - expected[key]).norm() < 3e-3 * expected[key].norm()  # saved as fp16
    metadata = read_metadata(variant)
    assert metadata["ss_output_name"] == "lora"
    assert metadata["lorasweep_made_of"] == "lora-000001.safetensors, lora-000002.safetensors"
    assert metadata["lorasweep_strength"] == "0.8"
    assert not {"ss_network_args", "lora_adapter_metadata"} & metadata.keys()
    assert has_variant(variant, "their hashes")
    assert not has_variant(variant, "other hashes")
    before = variant.read_bytes()
    write_variant(variant, files, 0.8, "their hashes", base.adapters)
    assert variant.read_bytes() == before
    variant.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert not has_variant(variant, "their hashes")
    assert not has_variant(tmp_path / "none.safetensors", "their hashes")


def test_loras_with_different_modules_are_not_averaged(base: BaseModel) -> None:
    loras = [random_lora(base, network, 1) for network in NETWORKS]
    with pytest.raises(CheckpointError, match="LoRAs with different modules cannot be averaged"):
        averaged(loras)
