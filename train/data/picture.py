"""One picture: opened, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from train.config import UserError, cause
from train.data.buckets import Frame
from train.data.kinds import FORMATS, really
from train.data.subset import Subset
from train.encoding import shortened

BACKDROP = (255, 255, 255)  # what shows through transparent pictures


class DataError(UserError, ValueError):
    """The pictures cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class Picture:
    """One picture and its caption.

    Attributes:
        sha256: of the file's bytes.
        content: sha256 of the pixels; the same for copies that are encoded differently.
        size: (width, height) as it is shown, in pixels.
        subset: where it was found, and how it is read.
        repeats: how often an epoch shows it.
    """

    path: Path
    caption: str
    sha256: str
    content: str
    size: tuple[int, int]
    subset: Subset
    repeats: int = 1

    def sizes(self, frame: Frame) -> tuple[int, ...]:
        """See `Base.size_conditioning`."""
        (width, height), (left, top), size = self.size, frame.corner, frame.size
        return height, width, top, left, size[1], size[0]


@dataclass(frozen=True)
class Decoded:
    """A picture file's content.

    Attributes:
        picture: in RGB, turned as its EXIF says, transparency on white, 16 bit made 8.
        see_through: whether transparency was filled up.
        frames: of an animation, or pages; the first alone is read.
    """

    picture: Image.Image
    see_through: bool
    frames: int


def open_picture(path: Path) -> Image.Image:
    """The picture in RGB, see `Decoded`.

    Raises:
        DataError: not a picture, or a broken one.
    """
    return decode_picture(path).picture


def decode_picture(path: Path) -> Decoded:
    """Reads a picture file.

    Raises:
        DataError: not a picture, or a broken one.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            frames = _frames(opened)
            picture = _in_8_bits(_upright(opened))
            see_through = False
            if picture.has_transparency_data:
                layer = picture.convert("RGBA")
                see_through = bool(np.asarray(layer.getchannel("A")).min() < 255)
                picture = Image.new("RGBA", layer.size, BACKDROP)
                picture.alpha_composite(layer)
            return Decoded(picture.convert("RGB"), see_through, frames)
    except Image.DecompressionBombError as error:
        raise DataError(f"{shortened(path)}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever Pillow's decoders stumble over in a broken file
        raise DataError(f"{shortened(path)}: cannot be read as a picture ({_why(path, error)})") \
            from error  # fmt: skip


def _frames(opened: Image.Image) -> int:
    if opened.format == "MPO":  # phones put other views of the same picture in it
        return 1
    try:
        return int(getattr(opened, "n_frames", 1))
    except Exception:  # a later frame is broken, which nobody reads
        return 1


def _upright(opened: Image.Image) -> Image.Image:
    opened.load()
    try:
        return ImageOps.exif_transpose(opened)
    except Exception:  # the EXIF block is broken, and the pixels are not
        return opened.copy()


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Numbers of 16 and 32 bits, from 0 to 255, and floats, from 0 to 1, brought to 0 to 255."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    if picture.mode.startswith("I;16") or (picture.mode == "I" and values.max() > 255):
        values = values / 257
    elif picture.mode == "F" and values.max() <= 1:
        values = values * 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _why(path: Path, error: Exception) -> str:
    """What is wrong with a file: what it really is, else what was said about it."""
    if isinstance(error, UnidentifiedImageError):
        try:
            return f"it is {really(path)}" if really(path) else "of no kind that is known"
        except OSError as unread:
            error = unread
    return getattr(error, "strerror", None) or cause(error)
