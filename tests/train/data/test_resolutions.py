"""Common training resolutions, from 416 to 1024: square, wide, and in buckets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from tests.train.conftest import train
from train.config.schema import BaseConfig, DataConfig, TrialConfig
from train.data.dataset import load_dataset
from train.loop.trainer import TrialSpec
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseModel, load_base

Make = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def eighth(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A base whose latents have an eighth of an image's sides, and whose UNet halves them three
    times, as Stable Diffusion's; it looks at the text where they are smallest alone."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("eighth")
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=2,
        mid_block_add_attention=False,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        cross_attention_dim=32, attention_head_dim=8, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipeline = StableDiffusionPipeline.from_pretrained(
        base_folder, vae=vae, unet=unet, safety_checker=None
    )
    pipeline.save_pretrained(folder)
    return load_base(BaseConfig(path=str(folder), device="cpu"))


SHAPES = [(900, 600), (600, 900), (1000, 1000)]
BUCKETS = {  # of kohya's rule for these shapes, by width and height of the resolution
    (416, None): [(512, 320), (320, 512), (384, 384)],
    (512, None): [(640, 384), (384, 640), (512, 512)],
    (640, None): [(768, 512), (512, 768), (640, 640)],
    (768, None): [(896, 640), (640, 896), (768, 768)],
    (1024, None): [(1216, 832), (832, 1216), (1024, 1024)],
    (768, 512): [(768, 512), (512, 768), (576, 576)],
}


@pytest.mark.parametrize(("resolution", "height"), BUCKETS)
@pytest.mark.parametrize("buckets", [False, True])
def test_every_resolution_is_trained(
    eighth: BaseModel, trial: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    resolution: int, height: int | None, buckets: bool,
) -> None:  # fmt: skip
    """One step on an image of every size changes all of the LoRA."""
    for i, shape in enumerate(SHAPES if buckets else SHAPES[:1]):
        Image.new("RGB", shape, (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    data = DataConfig(
        path=str(tmp_path), resolution=resolution, height=height, buckets=buckets,
        validation_fraction=0.0,
    )  # fmt: skip
    base = BaseConfig(path=eighth.path, device="cpu")
    config = trial(data=data, base=base, batch_size=1, epochs=1)
    observed: list[tuple[int, ...]] = []
    predict = eighth.predict

    def watched(noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        observed.append(tuple(noisy.shape))
        return predict(noisy, timesteps, conditioning)

    monkeypatch.setattr(eighth, "predict", watched)
    epoch = train(eighth, load_dataset(data), TrialSpec(config, tmp_path / "lora"))[-1]
    assert not epoch.failures
    full = (resolution, height or resolution)
    sizes = sorted(BUCKETS[resolution, height] if buckets else [full])
    assert sorted(observed) == sorted((1, 4, high // 8, wide // 8) for wide, high in sizes)
    saved = epoch.checkpoints[0].path
    ups = load_checkpoint(saved, eighth.adapters).up
    assert all(up.abs().max() > 0 for up in ups.values())
    metadata = read_metadata(saved)
    assert metadata["ss_resolution"] == str(full)
    result = json.loads(metadata["ss_bucket_info"]) or {"buckets": {}}
    reported = sorted(tuple(one["resolution"]) for one in result["buckets"].values())
    assert reported == (sizes if buckets else [])
