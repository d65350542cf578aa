"""One picture: opened whatever its kind, framed, and as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from train.config import UserError
from train.data.buckets import Frame
from train.data.subset import Subset
from train.data.tint import Tint

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
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

    def pixels(self, resolution: int) -> Tensor:
        """(3, R, R) float, 0 to 1: scaled to cover the square, then cropped in the middle."""
        return self.framed(Frame.covering(self.size, (resolution, resolution)))

    def sizes(self, frame: Frame) -> tuple[int, ...]:
        """See `Base.size_conditioning`."""
        (width, height), (left, top), size = self.size, frame.corner, frame.size
        return height, width, top, left, size[1], size[0]

    def framed(self, frame: Frame, flipped: bool = False, tint: Tint | None = None) -> Tensor:
        """(3, H, W) float, 0 to 1: what the frame shows of the picture.

        Args:
            flipped: left and right exchanged.
            tint: a change of its colours.
        """
        picture = open_picture(self.path)
        # averaging when shrinking, as kohya's INTER_AREA
        method = Image.Resampling.BOX if frame.scale < 1 else Image.Resampling.BICUBIC
        picture = picture.resize(frame.size, method, box=frame.box)
        if tint:
            picture = tint(picture)
        values = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
        return values.flip(-1) if flipped else values


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
            if picture.has_transparency_data:
                layer = picture.convert("RGBA")
                picture = Image.new("RGBA", layer.size, BACKDROP)
                picture.alpha_composite(layer)
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}") from error
