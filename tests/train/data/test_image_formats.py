"""Kinds of image files: those that are read, those that are named, and broken files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from tests.train.data.test_layouts import load, write_images
from train.data.images.cropping import square
from train.data.images.file_kinds import EXTENSIONS
from train.data.images.image import DataError, open_image

RED, BLUE = (200, 30, 30), (30, 30, 200)


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.gif", "a.avif", "a.jfif", "a.jpe", "a.dib"])
def test_more_image_formats_are_read(tmp_path: Path, name: str) -> None:
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (24, 16), RED).save(tmp_path / name)
    image = load(tmp_path).training[0]
    assert image.size == (24, 16)
    np.testing.assert_allclose(square(image, 8)[:, 4, 4].numpy() * 255, RED, atol=6)


def test_unread_files_are_named_except_companions(tmp_path: Path) -> None:
    write_images(tmp_path, "a")
    names = ("b.heic", "c.HEIC", "d.jxl", "e.psd", "f.mov", "g.jpg_large", "without")
    for name in (*names, "a.npz", "a.json", "notes.md", "a.txt", "train.toml"):
        (tmp_path / name).write_text("sks dog")
    message = next(line for line in load(tmp_path).report().splitlines() if "not read" in line)
    for words in ("2 .heic (b.heic, c.HEIC)", "1 .jxl (d.jxl)", "1 .psd", "1 .mov",
                  "1 .jpg_large", "1 no extension (without)"):  # fmt: skip
        assert words in message
    assert not any(name in message for name in ("npz", "json", "notes", "toml"))


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_first_frame_of_an_animation_is_read_with_a_warning(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, BLUE)]
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
    write_images(tmp_path, "still")
    dataset = load(tmp_path)
    assert open_image(tmp_path / f"a.{kind}").getpixel((8, 8)) == RED
    message = f"1 image has several frames or pages (a.{kind}): only the first one is read"
    assert message in dataset.report()


def test_16_bit_and_float_images_become_8_bit(tmp_path: Path) -> None:
    values = np.array([[0, 0.5, 1.0]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "float.tif")
    Image.fromarray(values * 255).save(tmp_path / "large.tif")
    Image.fromarray((values * 65535).astype(np.uint16)).save(tmp_path / "deep.tif")
    Image.fromarray((values * 65535).astype(np.int32)).save(tmp_path / "deeper.tif")
    for name in ("float", "large", "deep", "deeper"):
        row = np.asarray(open_image(tmp_path / f"{name}.tif"))[0, :, 0].astype(int)
        np.testing.assert_allclose(row, [0, 127.5, 255], atol=1)


def test_image_with_broken_exif_is_still_read(tmp_path: Path) -> None:
    image = Image.new("RGB", (24, 16), RED)
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    odd = image.getexif()
    odd[0x0112] = 99
    image.save(tmp_path / "b.jpg", exif=odd)
    assert [p.size for p in load(tmp_path).training] == [(24, 16)] * 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is an empty file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is an HEIC image"),
        (b"\xff\x0a" + b"\7" * 40, "it is a JPEG XL image"),
        (b"\n <!DOCTYPE html><html>not found</html>", "it is a web page or an SVG drawing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is PostScript"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"nothing at all", "of an unknown kind"),
    ],
)
def test_actual_file_kind_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    write_images(tmp_path, "a")
    (tmp_path / "b.jpg").write_bytes(data)
    with pytest.raises(DataError, match=rf"b\.jpg: cannot be read as an image \(.*{message}.*skip"):
        load(tmp_path)


def test_truncated_files_end_in_one_line(tmp_path: Path) -> None:
    """Every format, cut at many positions: the image, or an error that names the file."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    kinds = {".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".avif"} & EXTENSIONS
    for kind in sorted(kinds):
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()[kind])
        full = buffer.getvalue()
        file = tmp_path / f"cut{kind}"
        for part in range(0, 100, 7):
            file.write_bytes(full[: len(full) * part // 100])
            message = problem_with(file)
            assert message is None or (file.name in message and "\n" not in message)


def problem_with(file: Path) -> str | None:
    try:
        assert open_image(file).size == (30, 20)
    except DataError as error:
        return str(error)
    return None
