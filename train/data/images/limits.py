"""Rejects images that cannot be decoded in bounded memory and time, by their headers."""

from __future__ import annotations

import os
import re
import warnings
from typing import BinaryIO

from PIL import Image

from train.data.images.headers import MAX_CHUNKS, header_excess

MAX_BYTES = 400_000_000  # bytes of a file
MEMORY_LIMIT = 1_420_000_000  # bytes at the peak of decoding and conversion
# bytes per pixel at that peak; for most formats the decoded image and one copy, 4 each
PEAK_BYTES_PER_PIXEL = {"JPEG": 12, "MPO": 12, "WEBP": 20, "AVIF": 20, "TIFF": 16}
DEFAULT_BYTES_PER_PIXEL = 8
FILE_COPIES = 2  # of the file, held by a decoder
READ_IN_PARTS = ("TIFF", "PNG")
TILE = (322, 323)  # a TIFF's tags: width and height of its tiles
MAX_TILE_PIXELS = 2**24  # pixels, for images that are smaller

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits here are stricter
# about odd data besides the pixels, possibly thousands of warnings for a file
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class TooLarge(ValueError):
    """An image cannot be decoded within the limits; the message says why."""


def open_within_limits(
    stream: BinaryIO, formats: list[str], chunks: int = MAX_CHUNKS
) -> Image.Image:
    """An image of which only the header was read.

    Args:
        chunks: the maximum for a PNG.

    Raises:
        TooLarge: decoding would take too much memory or time.
        Exception: Pillow's errors for anything that is not an image.
    """
    if reason := header_excess(stream, chunks):
        raise TooLarge(f"it {reason}")
    try:
        image = Image.open(stream, formats=formats)
    except Image.DecompressionBombError as error:  # Pillow's own limit
        digits = re.search(r"\d+", str(error))
        raise TooLarge(
            _too_many(int(digits[0]) if digits else 0, MEMORY_LIMIT / DEFAULT_BYTES_PER_PIXEL)
        ) from None
    name = image.format or ""
    file_bytes = 0 if name in READ_IN_PARTS else FILE_COPIES * os.fstat(stream.fileno()).st_size
    pixels, max_pixels = (
        image.width * image.height,
        (MEMORY_LIMIT - file_bytes) / PEAK_BYTES_PER_PIXEL.get(name, DEFAULT_BYTES_PER_PIXEL),
    )
    if pixels > max_pixels:
        raise TooLarge(f"{image.width}x{image.height} pixels: {_too_many(pixels, max_pixels)}")
    sides = [getattr(image, "tag_v2", {}).get(tag, 0) for tag in TILE]
    tile = sides[0] * sides[1] if all(isinstance(side, int) for side in sides) else 0
    if tile > max(pixels, MAX_TILE_PIXELS):
        raise TooLarge("its tiles are larger than the image")
    return image


def _too_many(pixels: int, max_pixels: float) -> str:
    return (
        f"{pixels / 1e6:.0f} megapixels are more than can be decoded in memory (at most "
        f"{max_pixels / 1e6:.0f}); make the image smaller"
    )
