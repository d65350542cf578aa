"""The training pictures: found, checked, captioned, split into training and validation."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from train.config import EMBEDDED, DataConfig

EMBEDDED_FOLDER = Path(__file__).parent / "puppets" / "pictures" / "narrow"
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
BACKDROP = (255, 255, 255)  # what shows through transparent pictures


class DataError(ValueError):
    """The pictures cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class Picture:
    """One picture and its caption.

    Attributes:
        sha256: of the file's bytes.
    """

    path: Path
    caption: str
    sha256: str

    def pixels(self, resolution: int) -> Tensor:
        """(3, R, R) float, 0 to 1: scaled to cover the square, then cropped in the middle."""
        picture = open_picture(self.path)
        factor = resolution / min(picture.size)
        # averaging when shrinking, as kohya's INTER_AREA
        method = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
        picture = ImageOps.fit(picture, (resolution, resolution), method=method)
        return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)

    def sizes(self, resolution: int) -> tuple[int, ...]:
        """See `Base.size_conditioning`."""
        width, height = open_picture(self.path).size
        factor = resolution / min(width, height)
        top, left = (round((side * factor - resolution) / 2) for side in (height, width))
        return height, width, top, left, resolution, resolution


@dataclass(frozen=True)
class Pictures:
    """A data set.

    Attributes:
        training, validation: disjoint by content; validation may be empty.
        fingerprint: sha256 over the contents and captions of both parts.
        warnings: what a careful friend would say about these pictures.
    """

    training: tuple[Picture, ...]
    validation: tuple[Picture, ...]
    trigger: str
    repeats: int
    fingerprint: str
    warnings: tuple[str, ...] = field(default=())

    def report(self) -> str:
        """What was found, in a few lines, warnings last."""
        captions = len({picture.caption for picture in self.training})
        lines = [
            f"{len(self.training)} training pictures x {self.repeats} repeats, "
            f"{captions} different captions; {len(self.validation)} held out for validation",
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def load_pictures(config: DataConfig) -> Pictures:
    """Finds, opens and checks every picture, and splits them.

    Held out are, in this order: the pictures of `validation_path`; those of a subfolder
    `validation`; a seeded share of the folder, copies of one picture always on the same side.

    Raises:
        DataError: no folder, no picture in it, or one that cannot be opened.
    """
    folder = EMBEDDED_FOLDER if config.path == EMBEDDED else Path(config.path).expanduser()
    warnings: list[str] = []
    found = _read_folder(folder, config, warnings)
    held_out_folder = Path(config.validation_path or folder / "validation").expanduser()
    if config.validation_path or held_out_folder.is_dir():
        validation = _read_folder(held_out_folder, config, warnings)
        contents = {picture.sha256 for picture in validation}
        training = [picture for picture in found if picture.sha256 not in contents]
        if not training:
            raise DataError(f"data.validation_path: holds all the pictures of {folder}")
    else:
        training, validation = _split(found, config.validation_fraction, config.validation_seed)
    if len(training) < 10:
        warnings.append(f"{len(training)} pictures are few; 20 and more overfit later")
    if not validation:
        warnings.append("no picture is held out: there will be no validation_loss")
    return Pictures(
        training=tuple(training),
        validation=tuple(validation),
        trigger=config.trigger.strip(),
        repeats=config.repeats,
        fingerprint=_fingerprint([*training, *validation], len(training)),
        warnings=tuple(warnings),
    )


def open_picture(path: Path) -> Image.Image:
    """The picture in RGB: turned as its EXIF says, transparency on white, 16 bit made 8.

    Raises:
        DataError: not a picture, or a broken one.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                values = np.asarray(picture, dtype=np.float64)
                if picture.mode == "I;16" or values.max() > 255:
                    values = values / 257
                picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
            if "A" in picture.getbands() or "transparency" in picture.info:
                layer = picture.convert("RGBA")
                picture = Image.new("RGBA", layer.size, BACKDROP)
                picture.alpha_composite(layer)
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error


def _read_folder(folder: Path, config: DataConfig, warnings: list[str]) -> list[Picture]:
    if not folder.is_dir():
        raise DataError(f"data.path: there is no folder {folder}")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS)
    if not files:
        kinds = ", ".join(sorted(EXTENSIONS))
        raise DataError(f"data.path: no picture ({kinds}) in {folder}")
    pictures, bare = [], []
    for file in files:
        open_picture(file)
        caption = _caption(file, config.caption_extension)
        if not caption:
            bare.append(file.name)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        pictures.append(Picture(file, caption or config.trigger.strip(), digest))
    if bare:
        warnings.append(
            f"{len(bare)} of {len(files)} pictures in {folder.name} have no caption and get the "
            f"trigger ({', '.join(bare[:3])}{', ...' if len(bare) > 3 else ''})"
        )
    word = config.trigger.split()[0].lower()
    without = [p for p in pictures if word not in p.caption.lower().replace(",", " ").split()]
    if without:
        warnings.append(
            f"{len(without)} of {len(files)} captions in {folder.name} lack the trigger word "
            f"{word!r} (as {without[0].path.name}); prompts with it may not find the subject"
        )
    return pictures


def _caption(picture: Path, extension: str) -> str:
    file = picture.with_suffix(extension)
    try:
        return " ".join(file.read_text(encoding="utf-8").split()) if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: caption is not UTF-8 text") from error


def _split(
    pictures: list[Picture], fraction: float, seed: int
) -> tuple[list[Picture], list[Picture]]:
    contents = sorted({picture.sha256 for picture in pictures})
    count = min(round(len(contents) * fraction), len(contents) - 1)
    held_out = set(random.Random(seed).sample(contents, count))
    return (
        [picture for picture in pictures if picture.sha256 not in held_out],
        [picture for picture in pictures if picture.sha256 in held_out],
    )


def _fingerprint(pictures: list[Picture], training: int) -> str:
    digest = hashlib.sha256(str(training).encode())
    for picture in pictures:
        digest.update(f"{picture.sha256}\0{picture.caption}\0".encode())
    return digest.hexdigest()
