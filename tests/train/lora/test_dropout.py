"""Dropout in training: of the LoRA's intermediate activations, and of captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.train.conftest import relative_distance, train
from train.config.schema import DataConfig, NetworkConfig, TrialConfig
from train.data.dataset import Dataset, load_dataset
from train.loop.trainer import TrialSpec
from train.lora.batched import Dropout
from train.models.base_model import BaseModel

Make = Callable[..., TrialConfig]
LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONVOLUTION = "lora_unet_down_blocks_0_resnets_0_conv1"


@pytest.mark.parametrize(("key", "shape"), [(LINEAR, (4, 200, 16)), (CONVOLUTION, (4, 16, 15, 15))])
def test_dropout_zeroes_activations_and_scales_the_others(
    base: BaseModel, key: str, shape: tuple[int, ...]
) -> None:
    """Rank 1, so each position has its full change or none; the first rows drop nothing."""
    random = torch.Generator().manual_seed(0)
    adapter = base.adapters.create(NetworkConfig(rank=1, conv_rank=1), random).requires_grad_(False)
    for up in adapter.up.values():
        up.copy_(torch.randn(up.shape, generator=random))
    module, rows = base.adapters.targets[key], torch.randn(shape, generator=random)
    with torch.no_grad():
        without_lora = module(rows)
        with base.adapters.activated([adapter, adapter]):
            full = module(rows) - without_lora
        with base.adapters.activated([adapter, adapter], [Dropout(0.0, 0), Dropout(0.25, 7)]):
            rest = module(rows) - without_lora
    assert torch.equal(rest[:2], full[:2])
    channels = -1 if key == LINEAR else 1
    remaining = rest[2:].norm(dim=channels, keepdim=True) > 1e-5
    torch.testing.assert_close(rest[2:], remaining * full[2:] / 0.75, rtol=1e-3, atol=1e-5)
    assert remaining.float().mean() == pytest.approx(0.75, abs=0.06)


def test_step_trains_the_weights_that_dropout_kept(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    """With the same random draws and the same loss, since the LoRA has no effect yet."""
    losses = []
    for rate in (0.0, 0.5):
        config = trial(max_steps=1, network=NetworkConfig(rank=4, dropout=rate))
        epoch = train(base, dataset, TrialSpec(config, tmp_path / str(rate)))[-1]
        losses.append(epoch.checkpoints[0].train_loss)
    assert losses[0] == losses[1]
    assert relative_distance(tmp_path / "0.5", tmp_path / "0.0") > 1e-3


def test_dropped_caption_is_trained_as_empty_text(
    base: BaseModel, trial: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the subset's own probability, or else the trial's."""
    lines = ["[[datasets]]"]
    for name, rate in (("never", "0.0"), ("always", "1.0"), ("unsaid", "")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), (len(name), 0, 0)).save(tmp_path / name / "0.png")
        (tmp_path / name / "0.txt").write_text(name)
        lines += ["[[datasets.subsets]]", f"image_dir = '{tmp_path / name}'", "num_repeats = 20"]
        lines += [f"caption_dropout_rate = {rate}"] if rate else []
    (tmp_path / "set.toml").write_text("\n".join(lines))
    data = DataConfig(dataset_config=str(tmp_path / "set.toml"), resolution=32,
                      validation_fraction=0.0)  # fmt: skip
    known = {words: base.encode_text([words]) for words in ("never", "always", "unsaid", "")}
    observed: list[str] = []
    predict = base.predict

    def watched(noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        for row in conditioning["encoder_hidden_states"]:
            observed.extend(
                w for w, text in known.items() if row.equal(text["encoder_hidden_states"][0])
            )
        return predict(noisy, timesteps, conditioning)

    monkeypatch.setattr(base, "predict", watched)
    config = trial(data=data, epochs=1, batch_size=20, caption_dropout=0.5)
    train(base, load_dataset(data), TrialSpec(config, tmp_path / "lora"))
    counts = Counter(observed)
    assert len(observed) == 60
    assert (counts["never"], counts["always"]) == (20, 0)
    assert 4 < counts["unsaid"] < 16
