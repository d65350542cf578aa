"""One picture: opened, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from train.config import UserError, cause
from train.data.buckets import Frame
from train.data.kinds import FORMATS, really
from train.data.picture_limits import LARGEST, excess, too_many
from train.data.rgb import in_rgb
from train.data.subset import Subset
from train.encoding import shortened
from train.gate import GateError, opened


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
        animated: whether there are more frames or pages; the first alone is read.
    """

    picture: Image.Image
    see_through: bool
    animated: bool


def open_picture(path: Path) -> Image.Image:
    """The picture in RGB, see `Decoded`.

    Raises:
        DataError: see `decode_picture`.
    """
    return decode_picture(path).picture


def decode_picture(path: Path) -> Decoded:
    """Reads a picture file.

    Raises:
        DataError: not a picture, a broken one, or one that is too large to be decoded.
    """
    try:
        with opened(path, LARGEST) as stream:
            found = Image.open(stream, formats=FORMATS)
            if words := excess(found, stream):
                raise DataError(f"{shortened(path)}: {words}")
            animated = _is_animated(found)
            found.load()
        picture = _upright(found)
        del found  # its pixels are not needed beside those that are turned
        return Decoded(*in_rgb(picture), animated)
    except GateError as error:
        raise DataError(str(error)) from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # whatever Pillow's decoders stumble over in a broken file
        raise DataError(f"{shortened(path)}: cannot be read as a picture ({_why(path, error)})") \
            from error  # fmt: skip


def _is_animated(found: Image.Image) -> bool:
    if found.format == "MPO":  # phones put other views of the same picture in it
        return False
    try:  # not how many frames there are: to count them, some formats are read to their end
        return bool(getattr(found, "is_animated", False))
    except Exception:  # a later frame is broken, which nobody reads
        return False


def _upright(picture: Image.Image) -> Image.Image:
    try:
        if picture.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return picture
        return ImageOps.exif_transpose(picture)
    except Exception:  # the EXIF block is broken, and the pixels are not
        return picture


def _why(path: Path, error: Exception) -> str:
    """What is wrong with a file: what it really is, else what was said about it."""
    if isinstance(error, Image.DecompressionBombError):
        return too_many(error)
    if isinstance(error, UnidentifiedImageError):
        try:
            return f"it is {really(path)}" if really(path) else "of no kind that is known"
        except OSError as unread:
            error = unread
    return getattr(error, "strerror", None) or cause(error)
