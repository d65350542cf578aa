"""The precisions of computing and of saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.train.conftest import read_final_state, train
from train.config.schema import BaseConfig, NetworkConfig, TrialConfig
from train.data.dataset import Dataset
from train.loop.trainer import Trainer, TrialSpec
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import DTYPES, BaseModel, load_base

Make = Callable[..., TrialConfig]


def test_half_precision_trains_nearly_the_same(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    """The base computes in it, the LoRA in fp32; only fp16 needs loss scaling."""
    network = NetworkConfig(rank=4, conv_rank=2, text_encoder=True)
    result: dict[str, Tensor] = {}
    for precision, mixed in (("fp32", "no"), ("bf16", "bf16"), ("fp16", "fp16")):
        settings = BaseConfig(path=base.path, device="cpu", precision=precision)
        loaded = load_base(settings)
        parts = (loaded.unet, loaded.vae, *loaded.text_encoders)
        held = {parameter.dtype for part in parts for parameter in part.parameters()}
        assert held == {DTYPES[precision]}
        config = trial(epochs=1, base=settings, network=network)
        spec = TrialSpec(config, tmp_path / precision)
        run = Trainer(loaded, dataset, [spec]).pending[0]
        assert {flat.dtype for flat in run.adapter.parameters()} == {torch.float32}
        assert (run.scaler is not None) == (precision == "fp16")
        saved = train(loaded, dataset, spec)[-1].checkpoints[0]
        assert read_metadata(saved.path)["ss_mixed_precision"] == mixed
        ups = load_checkpoint(saved.path, base.adapters).up  # zero before training
        result[precision] = torch.cat([up.flatten() for up in ups.values()])
    for precision in ("bf16", "fp16"):
        assert not torch.equal(result[precision], result["fp32"])
        assert torch.cosine_similarity(result[precision], result["fp32"], dim=0) > 0.95


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_file_has_the_requested_precision(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, precision: str
) -> None:
    config = trial(max_steps=1, save_precision=precision)
    train(base, dataset, TrialSpec(config, tmp_path))
    tensors = load_file(tmp_path / "lora.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {DTYPES[precision]}
    trained = base.adapters.create(config.network, torch.Generator())
    trained.load_state_dict(read_final_state(tmp_path)["adapter"])
    for key, (down, up) in trained.matrices.items():
        assert torch.equal(tensors[f"{key}.lora_down.weight"], down.to(DTYPES[precision]))
        assert torch.equal(tensors[f"{key}.lora_up.weight"], up.to(DTYPES[precision]))
        assert tensors[f"{key}.alpha"] == trained.alpha[key] == 2.0
