"""Every folder layout, and kohya's dataset_config: what is read, and what is rejected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.config.schema import DataConfig, TrialConfig
from train.data.dataset import Dataset, load_dataset
from train.data.images.image import DataError


def write_images(folder: Path, *names: str, size: tuple[int, int] = (40, 40)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        random = np.random.default_rng(sum(f"{folder.name}{name}".encode()))
        pixels = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def load(folder: Path, **settings: object) -> Dataset:
    chosen = {"validation_fraction": 0.0, "trigger": "sks dog", **settings}
    return load_dataset(DataConfig(path=str(folder), **chosen))  # type: ignore[arg-type]


def captions_and_repeats(dataset: Dataset) -> dict[str, tuple[str, int]]:
    return {p.path.stem: (p.caption, p.repeats) for p in dataset.trained}


def test_images_and_captions_side_by_side(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a", "b")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "a.txt").write_text("sks dog, running\n")
    assert captions_and_repeats(load(tmp_path, repeats=3)) == {
        "a": ("sks dog, running", 3),
        "b": ("sks dog", 3),
    }


def test_kohya_folders_have_their_own_repeats_and_class_words(tmp_path: Path) -> None:
    write_images(tmp_path / "10_sks dog", "a", "b")
    write_images(tmp_path / "3_sks dog in snow", "c")
    write_images(tmp_path / "old", "d")
    write_images(tmp_path / "validation", "e")
    (tmp_path / "10_sks dog" / "b.caption").write_text("a sks dog, barking")
    dataset = load(tmp_path, repeats=7, caption_extension=".caption")
    assert captions_and_repeats(dataset) == {
        "a": ("sks dog", 10),
        "b": ("a sks dog, barking", 10),
        "c": ("sks dog in snow", 3),
    }
    assert dataset.images_per_epoch == 23
    assert [p.path.stem for p in dataset.validation] == ["e"]
    message = dataset.report().splitlines()
    assert message[0] == (
        "3 training images x 3 to 10 repeats, 3 different captions; 1 held out for validation"
    )
    assert "(as in 10_name): old" in dataset.report()
    assert "old, validation" not in dataset.report()


def test_class_words_replace_missing_captions(tmp_path: Path) -> None:
    dataset = load(write_images(tmp_path, "a"), class_words="photo of sks dog")
    assert captions_and_repeats(dataset) == {"a": ("photo of sks dog", 1)}


def test_regularization_is_repeated_to_match_the_subject(tmp_path: Path) -> None:
    subject = write_images(tmp_path / "subject", "a", "b", "c")
    write_images(tmp_path / "class" / "2_dog", "x", "y")
    dataset = load(subject, repeats=3, regularization_path=str(tmp_path / "class"))
    assert captions_and_repeats(dataset)["x"] == ("dog", 5)
    assert captions_and_repeats(dataset)["y"] == ("dog", 4)
    assert len(dataset.training) == 3, "they are none of the subject"
    plain = load(subject, repeats=3)
    assert plain.fingerprint != dataset.fingerprint
    write_images(tmp_path / "many", *map(str, range(12)))
    many = load(subject, repeats=3, regularization_path=str(tmp_path / "many"))
    assert len(many.regularization) == 9
    assert "3 of 12 regularization images are not used: there are more of them" in many.report()
    flat = {p.caption for p in many.regularization}
    assert flat == {"dog"}, "the class and not the trigger"


def test_regularization_images_equal_to_held_out_ones_are_not_used(tmp_path: Path) -> None:
    subject = write_images(tmp_path / "subject", "a", "b", "c")
    held_out = write_images(tmp_path / "held out" / "dog", "x")
    others = write_images(tmp_path / "class" / "dog", "x", "y")
    dataset = load(subject, validation_path=str(held_out), regularization_path=str(others))
    assert [image.path.stem for image in dataset.regularization] == ["y"]
    assert "1 of 2 regularization images is not used: they are equal" in dataset.report()


CONFIG = """
[general]
shuffle_caption = true
caption_extension = ".caption"
keep_tokens = 1
resolution = 512
caption_tag_dropout_rate = 0.1

[[datasets]]
resolution = [768, 512]
batch_size = 3
enable_bucket = true
max_bucket_reso = 1536
keep_tokens = 2

  [[datasets.subsets]]
  image_dir = "one"
  class_tokens = "sks dog"
  num_repeats = 4

  [[datasets.subsets]]
  image_dir = "two"
  keep_tokens = 3
  shuffle_caption = false
  flip_aug = true
  caption_extension = "txt"
  caption_dropout_rate = 0.25

[[datasets]]

  [[datasets.subsets]]
  image_dir = "prior"
  is_reg = true
"""


def test_dataset_config_falls_back_from_subset_to_dataset_to_general(tmp_path: Path) -> None:
    write_images(tmp_path / "one", "a")
    write_images(tmp_path / "two", "b")
    write_images(tmp_path / "prior", "c")
    (tmp_path / "one" / "a.caption").write_text("sks dog, x, y")
    (tmp_path / "two" / "b.txt").write_text("sks dog, z")
    (tmp_path / "set.toml").write_text(CONFIG)
    config = DataConfig(
        dataset_config=str(tmp_path / "set.toml"), validation_fraction=0, resolution=640,
        buckets=False, trigger="sks dog", repeats=9,
    )  # fmt: skip
    dataset = load_dataset(config)
    assert captions_and_repeats(dataset) == {
        "a": ("sks dog, x, y", 4),
        "b": ("sks dog, z", 9),
        "c": ("dog", 13),
    }
    one, two, prior = (image.subset for image in dataset.trained)
    assert (one.keep_tokens, two.keep_tokens, prior.keep_tokens) == (2, 3, 1)
    assert (one.shuffle_caption, two.shuffle_caption) == (True, False)
    assert (one.flip, two.flip) == (False, True)
    assert (one.caption_dropout, two.caption_dropout) == (None, 0.25)
    assert one.framing
    assert prior.framing
    assert (one.framing.resolution, one.framing.buckets, one.framing.most) == (
        (768, 512), True, 1536,
    )  # fmt: skip
    assert (prior.framing.resolution, prior.framing.buckets) == ((512, 512), False)
    message = dataset.report(TrialConfig(data=config))
    assert "caption_tag_dropout_rate in set.toml is not supported, so" in message
    assert "batch_size 3 is not used; training.batch_size is 1" in message


@pytest.mark.parametrize(
    ("resolution", "message", "sides"),
    [
        (1024, "", (256, 1024)),  # half and twice of it are ours, where there is no such file
        (1024, "max_bucket_reso = 2048", (256, 2048)),
        (1280, "", (256, 2560)),  # kohya would stop
        (32, "", (16, 1024)),  # as many sizes as with 64: their area is that of the resolution
    ],
)
def test_dataset_config_buckets_have_kohyas_default_sides(
    tmp_path: Path, resolution: int, message: str, sides: tuple[int, int]
) -> None:
    write_images(tmp_path / "one", "a")
    (tmp_path / "set.toml").write_text(
        f"[[datasets]]\nenable_bucket = true\nresolution = {resolution}\n{message}\n"
        "[[datasets.subsets]]\nimage_dir = 'one'"
    )
    dataset = load_dataset(DataConfig(dataset_config=str(tmp_path / "set.toml")))
    framing = dataset.training[0].subset.framing
    assert framing
    assert (framing.least, framing.most) == sides


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("[[datasets]]\nbucket_no_upscal = true", r"datasets\[0\]: there is no key bucket_no_upsc"
         r"al; did you mean bucket_no_upscale\?"),
        ("[[datasets]]\n[[datasets.subsets]]\nflip_agu = true", r"subsets\[0\]: there is no key "
         r"flip_agu; did you mean flip_aug\?"),
        ("[[datasets]]\n[[datasets.subsets]]\nresolution = 512", "resolution belongs to .*general"),
        ("[general]\nimage_dir = 'x'", r"image_dir belongs to \[\[datasets.subsets\]\]"),
        ("[[datasets]]\nbatch_size = '2'", r"datasets\[0\].batch_size: '2' must be int"),
        ("[[datasets]]\nresolution = [1, 2, 3]", "resolution is one or two whole numbers"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2", "image_dir is missing"),
        ("[dataset]", "there is no key dataset; did you mean datasets"),
        ("[datasets]\nx = 1", r"write \[\[datasets\]\]"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'gone'", "there is no folder gone"),
        ("[general]", "names no images"),
        ("a = ", "is not TOML"),
    ],
)  # fmt: skip
def test_dataset_config_rejects_what_kohya_ignores(
    tmp_path: Path, wrong: str, message: str
) -> None:
    (tmp_path / "set.toml").write_text(wrong)
    with pytest.raises(DataError, match=message):
        load_dataset(DataConfig(dataset_config=str(tmp_path / "set.toml")))
