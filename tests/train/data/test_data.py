"""Images of users: unusual files, missing captions, copies, and a split that never leaks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.config.schema import DataConfig, TrainingConfig, TrialConfig
from train.config_checks import check_trial
from train.data.dataset import load_dataset
from train.data.images.cropping import square
from train.data.images.image import DataError, open_image
from train.errors import ConfigError


def test_missing_and_empty_captions_get_the_trigger_and_a_warning(image_folder: Path) -> None:
    dataset = load_dataset(DataConfig(path=str(image_folder), trigger="zwx dog"))
    captions = {p.path.stem: p.caption for p in (*dataset.training, *dataset.validation)}
    assert captions["0"] == "zwx dog"
    assert captions["1"] == "a photo of sks puppet"
    assert "4 of 7 images" in dataset.report()
    assert "lack the trigger word" in dataset.report()


def test_copies_of_an_image_are_never_split(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        shutil.copy(tmp_path / f"{i}.png", tmp_path / f"copy-{i}.png")
    splits = []
    for seed in range(6):
        config = DataConfig(path=str(tmp_path), validation_fraction=0.3, validation_seed=seed)
        dataset = load_dataset(config)
        training, validation = (
            {p.sha256 for p in part} for part in (dataset.training, dataset.validation)
        )
        assert len(validation) == 4
        assert not training & validation
        assert load_dataset(config) == dataset, "the same seed, the same split"
        splits.append(frozenset(validation))
    assert len(set(splits)) > 1


def test_validation_subfolder_is_held_out(tmp_path: Path, image_folder: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "p")
    (tmp_path / "p" / "validation").mkdir()
    shutil.copy(image_folder / "3.jpg", tmp_path / "p" / "validation" / "again.jpg")
    dataset = load_dataset(DataConfig(path=str(tmp_path / "p")))
    assert [p.path.name for p in dataset.validation] == ["again.jpg"]
    assert "3.jpg" not in [p.path.name for p in dataset.training], "its copy is not trained on"


def test_separate_validation_folder_is_held_out(tmp_path: Path, image_folder: Path) -> None:
    """It takes precedence over a subfolder; copies of its images are not trained on."""
    subject, elsewhere, prior = (tmp_path / name for name in ("subject", "elsewhere", "class"))
    shutil.copytree(image_folder, subject)
    for folder in (subject / "validation", elsewhere, prior):
        folder.mkdir()
    shutil.copy(image_folder / "1.jpg", subject / "validation" / "inside.jpg")
    shutil.copy(image_folder / "3.jpg", elsewhere / "a.jpg")
    Image.open(image_folder / "5.jpg").save(elsewhere / "b.png")
    Image.open(image_folder / "5.jpg").save(prior / "x.bmp")
    Image.new("RGB", (20, 20)).save(prior / "y.png")
    config = DataConfig(
        path=str(subject), validation_path=str(elsewhere), regularization_path=str(prior), repeats=3
    )
    dataset = load_dataset(config)
    assert [(p.path.name, p.repeats) for p in dataset.validation] == [("a.jpg", 1), ("b.png", 1)]
    output = sorted(image.path.name for image in dataset.trained)
    assert output == ["0.jpg", "1.jpg", "2.jpg", "4.jpg", "6.jpg", "y.png"]
    shutil.rmtree(subject / "validation")
    assert load_dataset(config) == dataset
    for path, message in (
        (tmp_path / "absent", "data.validation_path: there is no folder"),
        (image_folder, "data.validation_path: holds all the images of the training folder"),
    ):
        with pytest.raises(DataError, match=message):
            load_dataset(replace(config, validation_path=str(path)))


GRAY, RED = (100, 100, 100), (200, 30, 30)


@pytest.mark.parametrize(
    ("name", "mode", "color", "observed"),
    [
        ("a.webp", "RGB", RED, RED),
        ("a.webp", "RGBA", (*RED, 0), (255, 255, 255)),
        ("a.jpeg", "RGB", RED, RED),
        ("a.JPG", "CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("a.bmp", "RGB", RED, RED),
        ("a.png", "L", 100, GRAY),
        ("a.jpg", "L", 100, GRAY),
        ("a.png", "LA", (0, 51), (204, 204, 204)),  # a fifth of black on white
        ("a.png", "I;16", 100 * 257, GRAY),
        ("a.png", "1", 1, (255, 255, 255)),
        ("a.png", "P", RED, RED),
        ("a.bmp", "P", RED, RED),
    ],
)
def test_every_image_mode_is_read(
    tmp_path: Path, name: str, mode: str, color: Any, observed: tuple[int, int, int]
) -> None:
    image = Image.new("RGB" if mode == "P" else mode, (12, 8), color)
    if mode == "P":
        image = image.quantize(4)
    image.save(tmp_path / name, quality=100)
    result = load_dataset(DataConfig(path=str(tmp_path), validation_fraction=0.0)).training[0]
    assert result.size == (12, 8)
    pixels = square(result, 8).permute(1, 2, 0) * 255
    expected = torch.tensor(observed, dtype=torch.float32).expand_as(pixels)
    torch.testing.assert_close(pixels, expected, atol=3, rtol=0)


def test_transparent_palette_color_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=1)
    opened = open_image(tmp_path / "a.png")
    assert (opened.getpixel((0, 0)), opened.getpixel((1, 0))) == (RED, (255, 255, 255))


def test_unusual_image_modes_become_rgb(tmp_path: Path) -> None:
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    see_through.save(tmp_path / "a.png")
    deep = Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16))
    deep.save(tmp_path / "b.png")
    turned = Image.new("RGB", (6, 3))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "c.jpg", exif=turned.getexif())
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "b.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "c.jpg").size == (3, 6)


def test_broken_images_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        load_dataset(DataConfig(path=str(tmp_path / "absent")))
    with pytest.raises(DataError, match="no image"):
        load_dataset(DataConfig(path=str(tmp_path)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n not really")
    with pytest.raises(DataError, match=r"broken\.png: cannot be read"):
        load_dataset(DataConfig(path=str(tmp_path)))


def test_pixels_cover_the_square_without_distortion(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    image = load_dataset(DataConfig(path=str(tmp_path))).training[0]
    pixels = square(image, 10)
    assert pixels.shape == (3, 10, 10)
    assert pixels.min() > 0.99, "the middle third alone is in the square"


def test_copies_in_another_encoding_are_never_split(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(8):
        image = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        image.save(tmp_path / f"{i}.png")
        image.save(tmp_path / f"copy-{i}.bmp")
    for seed in range(4):
        config = DataConfig(path=str(tmp_path), validation_fraction=0.4, validation_seed=seed)
        dataset = load_dataset(config)
        held_out = {p.path.stem[-1] for p in dataset.validation}
        assert len(held_out) == 3
        assert not held_out & {p.path.stem[-1] for p in dataset.training}
        assert "5 images occur twice" in dataset.report()


def test_broken_images_are_skipped_on_request(tmp_path: Path, image_folder: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "p")
    (tmp_path / "p" / "2.jpg").write_bytes((image_folder / "2.jpg").read_bytes()[:900])
    with pytest.raises(DataError, match=r"2\.jpg: cannot be read.*on_error=skip"):
        load_dataset(DataConfig(path=str(tmp_path / "p")))
    dataset = load_dataset(DataConfig(path=str(tmp_path / "p"), on_error="skip"))
    assert len(dataset.training) + len(dataset.validation) == 6
    assert "2.jpg: cannot be read" in dataset.report()


def test_report_gives_advice(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(6):
        studio = np.full((40, 40, 4), 255, dtype=np.uint8)
        studio[10:, 10:30, :3] = random.integers(0, 255, 3)
        studio[:2, :2, 3] = 0 if i == 0 else 255
        Image.fromarray(studio).save(tmp_path / f"{i}.png")
    data = DataConfig(path=str(tmp_path), validation_fraction=0, resolution=64, flip=True)
    dataset = load_dataset(data)
    config = TrialConfig(data=data, training=TrainingConfig(epochs=500, gradient_accumulation=4))
    message = dataset.report(config)
    for words in (
        "only 6 images", "no image is held out", "1 image is transparent (0.png)",
        "the borders of all the images look the same", "images are flipped",
        "each image is seen 500 times", "0.png, 40x40, is enlarged 1.6 times",
    ):  # fmt: skip
        assert words in message
    assert "only 6 images" not in load_dataset(replace(data, min_images_warning=6)).report()
    embedded = load_dataset(DataConfig())
    assert "borders" not in embedded.report(), "a beach and a city"


def test_fingerprint_depends_on_everything_that_affects_training(
    tmp_path: Path, image_folder: Path
) -> None:
    def fingerprint(**settings: Any) -> str:
        return load_dataset(DataConfig(path=str(tmp_path / "p"), **settings)).fingerprint

    shutil.copytree(image_folder, tmp_path / "p")
    before = fingerprint()
    others = [fingerprint(repeats=2), fingerprint(flip=True), fingerprint(shuffle_caption=True)]
    (tmp_path / "p" / "0.txt").write_text("sks puppet, waving")
    others.append(fingerprint())
    shutil.copy(image_folder / "1.jpg", tmp_path / "p" / "0.jpg")
    others.append(fingerprint())
    assert len({before, *others}) == 6
    shutil.move(tmp_path / "p", tmp_path / "q")
    shutil.move(tmp_path / "q", tmp_path / "p")
    assert fingerprint() == others[-1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"color_augmentation": True}, "set cache=off"),
        ({"buckets": True, "min_bucket": 640, "max_bucket": 512}, "data.min_bucket: 640 is more"),
        ({"buckets": True, "bucket_step": 1024}, "bucket_step: 1024 is more than the resolution"),
        ({"on_error": "ignore"}, "data.on_error: 'ignore' is not one of stop, skip"),
    ],
)
def test_impossible_settings_are_rejected(wrong: dict[str, Any], message: str) -> None:
    optimizer = {"_target_": "torch.optim.AdamW", "lr": 1e-3}
    with pytest.raises(ConfigError, match=message):
        check_trial(TrialConfig(data=DataConfig(**wrong), optimizer=optimizer))
