"""Opens image files of any supported kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from train.config.parsing import cause
from train.data.images.buckets import Crop
from train.data.images.file_kinds import FORMATS, actual_kind
from train.data.images.headers import exif_excess
from train.data.images.limits import MAX_BYTES, TooLarge, open_within_limits
from train.data.images.rgb import to_rgb
from train.data.images.subset import Subset
from train.errors import UserError
from train.files.untrusted import UntrustedFileError, opened
from train.text.display import shortened

# EXIF's orientation -> the transformation that shows the image upright
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
    """The dataset cannot be used; the message names the file and the solution."""


@dataclass(frozen=True)
class TrainingImage:
    """One image and its caption.

    Attributes:
        sha256: of the file's bytes.
        content: sha256 of the pixels; equal for copies with another encoding.
        size: (width, height) as displayed, in pixels.
        subset: its folder and how it is read.
        repeats: its number of uses in an epoch.
    """

    path: Path
    caption: str
    sha256: str
    content: str
    size: tuple[int, int]
    subset: Subset
    repeats: int = 1

    def sizes(self, crop: Crop) -> tuple[int, ...]:
        """See `BaseModel.size_conditioning`."""
        (width, height), (left, top), size = self.size, crop.corner, crop.size
        return height, width, top, left, size[1], size[0]


@dataclass(frozen=True)
class DecodedImage:
    """The content of an image file.

    Attributes:
        image: in RGB, rotated by its EXIF orientation, transparency on white, 16 bit as 8.
        has_transparency: whether there was transparency.
        animated: whether there are more frames or pages; only the first one is read.
    """

    image: Image.Image
    has_transparency: bool
    animated: bool


def open_image(path: Path) -> Image.Image:
    """The image in RGB, see `DecodedImage`.

    Raises:
        DataError: see `decode_image`.
    """
    return decode_image(path).image


def decode_image(path: Path) -> DecodedImage:
    """Reads an image file.

    Raises:
        DataError: not an image, a broken one, or one that is too large to decode.
    """
    try:
        with opened(path, MAX_BYTES) as stream:
            image = open_within_limits(stream, FORMATS)
            animated = _is_animated(image)
            image.load()
        upright = _upright(image)
        del image  # frees its pixels before the conversion
        return DecodedImage(*to_rgb(upright), animated)
    except UntrustedFileError as error:
        raise DataError(str(error)) from None
    except TooLarge as error:
        raise DataError(f"{shortened(path)}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for a broken file
        raise DataError(f"{shortened(path)}: cannot be read as an image ({_why(path, error)})") \
            from error  # fmt: skip


def _is_animated(image: Image.Image) -> bool:
    if image.format == "MPO":  # phones add other views of the same image
        return False
    try:  # n_frames is not used: some formats are read to the end to count them
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a later frame is broken, but is not read
        return False


def _upright(image: Image.Image) -> Image.Image:
    """The image rotated by its EXIF block or its XMP."""
    try:
        if exif_excess(_exif(image)):
            return image
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return image if turn is None else image.transpose(turn)
    except Exception:  # the EXIF block is broken, but the pixels are not
        return image


def _exif(image: Image.Image) -> bytes:
    """The EXIF block that Pillow would read: the file's, or that of a PNG of older programs."""
    text = image.info.get("Raw profile type exif", "")
    return image.info.get("exif") or bytes.fromhex("".join(text.split("\n")[3:]))


def _why(path: Path, error: Exception) -> str:
    """What is wrong with a file: its real kind, else the error."""
    if isinstance(error, UnidentifiedImageError):
        try:
            return f"it is {actual_kind(path)}" if actual_kind(path) else "of an unknown kind"
        except OSError as unread:
            error = unread
    return getattr(error, "strerror", None) or cause(error)
