"""Pictures as people have them: odd files, missing captions, copies, a split that never leaks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.config import DataConfig
from train.data import DataError, load_pictures, open_picture


def test_missing_and_empty_captions_get_the_trigger_and_a_warning(picture_folder: Path) -> None:
    pictures = load_pictures(DataConfig(path=str(picture_folder), trigger="zwx dog"))
    captions = {p.path.stem: p.caption for p in (*pictures.training, *pictures.validation)}
    assert captions["0"] == "zwx dog"
    assert captions["1"] == "a photo of sks puppet"
    assert "4 of 7 pictures" in pictures.report()
    assert "lack the trigger word" in pictures.report()


def test_copies_of_one_picture_are_never_on_both_sides(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        shutil.copy(tmp_path / f"{i}.png", tmp_path / f"copy-{i}.png")
    splits = []
    for seed in range(6):
        config = DataConfig(path=str(tmp_path), validation_fraction=0.3, validation_seed=seed)
        pictures = load_pictures(config)
        training, validation = (
            {p.sha256 for p in part} for part in (pictures.training, pictures.validation)
        )
        assert len(validation) == 4
        assert not training & validation
        assert load_pictures(config) == pictures, "the same seed, the same split"
        splits.append(frozenset(validation))
    assert len(set(splits)) > 1


def test_a_validation_subfolder_is_the_held_out_set(tmp_path: Path, picture_folder: Path) -> None:
    shutil.copytree(picture_folder, tmp_path / "p")
    (tmp_path / "p" / "validation").mkdir()
    shutil.copy(picture_folder / "3.jpg", tmp_path / "p" / "validation" / "again.jpg")
    pictures = load_pictures(DataConfig(path=str(tmp_path / "p")))
    assert [p.path.name for p in pictures.validation] == ["again.jpg"]
    assert "3.jpg" not in [p.path.name for p in pictures.training], "its copy is not trained on"


def test_odd_pictures_become_rgb(tmp_path: Path) -> None:
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    see_through.save(tmp_path / "a.png")
    deep = Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16))
    deep.save(tmp_path / "b.png")
    turned = Image.new("RGB", (6, 3))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "c.jpg", exif=turned.getexif())
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(tmp_path / "b.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(tmp_path / "c.jpg").size == (3, 6)


def test_broken_pictures_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        load_pictures(DataConfig(path=str(tmp_path / "absent")))
    with pytest.raises(DataError, match="no picture"):
        load_pictures(DataConfig(path=str(tmp_path)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n not really")
    with pytest.raises(DataError, match=r"broken\.png: cannot be read"):
        load_pictures(DataConfig(path=str(tmp_path)))


def test_pixels_cover_the_square_without_distortion(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    picture = load_pictures(DataConfig(path=str(tmp_path))).training[0]
    pixels = picture.pixels(10)
    assert pixels.shape == (3, 10, 10)
    assert pixels.min() > 0.99, "the middle third alone is in the square"
