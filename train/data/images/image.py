"""One picture: opened, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from train.config.parsing import cause
from train.data.images.buckets import Frame
from train.data.images.file_kinds import FORMATS, really
from train.data.images.headers import exif_excess
from train.data.images.limits import LARGEST, TooLarge, checked
from train.data.images.rgb import in_rgb
from train.data.images.subset import Subset
from train.errors import UserError
from train.files.untrusted import UntrustedFileError, opened
from train.text.display import shortened

# EXIF's orientation -> what shows the picture upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DataError(UserError, ValueError):
    """The pictures cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class TrainingImage:
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
        """See `BaseModel.size_conditioning`."""
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
            found = checked(stream, FORMATS)
            animated = _is_animated(found)
            found.load()
        picture = _upright(found)
        del found  # its pixels are not needed beside those that are turned
        return Decoded(*in_rgb(picture), animated)
    except UntrustedFileError as error:
        raise DataError(str(error)) from None
    except TooLarge as error:
        raise DataError(f"{shortened(path)}: {error}") from None
    except MemoryError:
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
    """Turned as its EXIF block or its XMP says."""
    try:
        if exif_excess(_exif(picture)):
            return picture
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
        return picture if turn is None else picture.transpose(turn)
    except Exception:  # the EXIF block is broken, and the pixels are not
        return picture


def _exif(picture: Image.Image) -> bytes:
    """The EXIF block that Pillow would read: the file's, or that of a PNG of older programs."""
    text = picture.info.get("Raw profile type exif", "")
    return picture.info.get("exif") or bytes.fromhex("".join(text.split("\n")[3:]))


def _why(path: Path, error: Exception) -> str:
    """What is wrong with a file: what it really is, else what was said about it."""
    if isinstance(error, UnidentifiedImageError):
        try:
            return f"it is {really(path)}" if really(path) else "of no kind that is known"
        except OSError as unread:
            error = unread
    return getattr(error, "strerror", None) or cause(error)
