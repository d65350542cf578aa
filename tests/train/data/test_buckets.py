"""Bucket sizes as in kohya; batches of one size each, in a sequence that the images determine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.config.schema import DataConfig, TrialConfig
from train.data.batching import crops_of, plan_batches
from train.data.dataset import load_dataset
from train.data.images.buckets import framing_of
from train.data.images.cropping import cropped
from train.data.images.image import DataError
from train.data.shuffling import shuffled

BUCKETS = DataConfig(resolution=512, buckets=True)


def test_bucket_sizes_match_kohyas() -> None:
    half = [(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640),
            (448, 576)]  # fmt: skip
    turned = [(height, width) for width, height in half]
    assert framing_of(BUCKETS).sizes == tuple(sorted([*half, (512, 512), *turned]))


def test_bucket_sides_are_multiples_of_the_step_as_in_kohya() -> None:
    framing = framing_of(replace(BUCKETS, min_bucket=250, max_bucket=1000, bucket_step=64))
    assert (framing.least, framing.most) == (192, 1024)
    assert all(side % 64 == 0 for size in framing.sizes for side in size)
    assert framing_of(replace(BUCKETS, min_bucket=5, bucket_step=64)).least == 64


@pytest.mark.parametrize(
    ("image", "size", "corner"),
    [
        ((1000, 1000), (512, 512), (0, 0)),
        ((3000, 2000), (640, 384), (0, 21)),  # 1.5 lies nearer to 1.67 than to 1.29
        ((2000, 3000), (384, 640), (21, 0)),
        ((4000, 500), (1024, 256), (512, 0)),  # wider than any bucket: cropped
        ((320, 768), (320, 768), (0, 0)),
        ((100, 100), (512, 512), (0, 0)),
    ],
)
def test_nearest_aspect_ratio_wins(
    image: tuple[int, int], size: tuple[int, int], corner: tuple[int, int]
) -> None:
    crop = framing_of(BUCKETS).crop(image)
    assert (crop.size, crop.corner) == (size, corner)


@pytest.mark.parametrize(
    ("image", "size", "scale"),
    [
        ((300, 200), (256, 192), 1.0),  # small ones stay as they are, but for the step
        ((512, 512), (512, 512), 1.0),
        ((1024, 1024), (512, 512), 0.5),
        ((3000, 2000), (576, 384), 0.2),  # 627 x 418: with a height of 384 the shape stays 1.5
        ((2213, 3944), (384, 640), 0.17),  # 383.5 x 683.5: rounded before it is cut to the step
    ],
)
def test_images_are_shrunk_and_cropped_without_upscaling(
    image: tuple[int, int], size: tuple[int, int], scale: float
) -> None:
    crop = framing_of(replace(BUCKETS, bucket_upscale=False)).crop(image)
    assert crop.size == size
    assert crop.scale == pytest.approx(scale, abs=0.01)


def test_pixels_keep_their_aspect_and_are_cropped_in_the_center(tmp_path: Path) -> None:
    remaining, right = (np.zeros((300, 200, 3), np.uint8), np.full((300, 200, 3), 255, np.uint8))
    Image.fromarray(np.concatenate([remaining, right], axis=1)).save(tmp_path / "a.png")
    config = DataConfig(path=str(tmp_path), resolution=64, height=32)
    image = load_dataset(config).training[0]
    crop = crops_of([image], config)[0]
    pixels = cropped(image, crop)
    assert pixels.shape == (3, 32, 64), "not square where a height is given"
    assert crop.box == (0, 50, 400, 250)
    assert (pixels[:, :, :31].max(), pixels[:, :, 33:].min()) == (0, 1)
    assert torch.equal(cropped(image, crop, flipped=True), pixels.flip(-1))


def test_batch_sequence_is_shared_and_mixes_the_buckets(tmp_path: Path) -> None:
    for i in range(9):
        Image.new("RGB", (60, 40) if i < 6 else (40, 60), (i, 0, 0)).save(tmp_path / f"{i}.png")
    config = DataConfig(path=str(tmp_path), resolution=64, buckets=True, repeats=3,
                        validation_fraction=0)  # fmt: skip
    dataset = load_dataset(config)
    batches = plan_batches(dataset.trained, crops_of(dataset.trained, config), 4)
    order = shuffled(batches, torch.Generator().manual_seed(0))
    sampled = [batches.images(step, order) for step in range(len(batches))]
    assert Counter(i for rows in sampled for i in rows) == dict.fromkeys(range(9), 3)
    for rows, (size, _) in zip(sampled, batches.sequence, strict=True):
        assert {size[0] > size[1]} == {i < 6 for i in rows}, "one size a batch"
    assert [len(rows) for rows in sampled].count(4) == 6, "the last of a bucket alone is smaller"
    wide = [size[0] > size[1] for size, _ in batches.sequence]
    assert wide == [True, False, True, False, True, True, False, True], "evenly mixed"
    message = dataset.report(TrialConfig(data=config))
    assert "bucket 80x48: 6 images, 18 per epoch" in message
    assert "9 images are smaller than the training size" in message


def test_image_smaller_than_a_bucket_step_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (60, 100)).save(tmp_path / "thin.png")
    config = DataConfig(path=str(tmp_path), resolution=512, buckets=True, bucket_upscale=False)
    with pytest.raises(DataError, match=r"thin\.png: 60x100 pixels"):
        crops_of(load_dataset(config).training, config)


@pytest.mark.parametrize("size", [(8000, 60), (60, 8000), (8000, 1), (1, 1), (30000, 2)])
def test_no_image_size_raises_an_exception(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "odd.png")
    config = DataConfig(path=str(tmp_path), resolution=64, buckets=True)
    image = load_dataset(config).training[0]
    for chosen in (config, replace(config, buckets=False)):
        crop = crops_of([image], chosen)[0]
        assert cropped(image, crop).shape == (3, crop.size[1], crop.size[0])
    with pytest.raises(DataError, match=r"odd\.png: .* too small or too narrow for buckets in"):
        crops_of([image], replace(config, bucket_upscale=False))


def test_bucket_step_above_the_resolution_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (600, 600)).save(tmp_path / "a.png")
    config = DataConfig(path=str(tmp_path), resolution=64, buckets=True, bucket_step=128)
    with pytest.raises(DataError, match="buckets in steps of 128 pixels"):
        crops_of(load_dataset(config).training, config)
