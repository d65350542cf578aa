"""Which pictures can be decoded in bounded memory and time, told by their headers."""

from __future__ import annotations

import re
from typing import BinaryIO

from PIL import Image

LARGEST = 400_000_000  # bytes of a file; some decoders hold it whole
MEMORY = 1_420_000_000  # bytes at the peak of decoding and conversion
# bytes a pixel at that peak; of most formats the decoded picture and one copy, 4 each
PEAK = {"JPEG": 12, "MPO": 12, "WEBP": 20, "AVIF": 20, "TIFF": 16}
OTHERS = 8


def excess(picture: Image.Image, stream: BinaryIO) -> str:
    """What is too large about a picture of which only the header was read; empty where nothing is.

    Args:
        stream: its file.
    """
    width, height = picture.size
    most = MEMORY / PEAK.get(picture.format or "", OTHERS)
    if width * height > most:
        return _said(f"{width}x{height} pixels, ", width * height, most)
    return ""


def too_many(error: Image.DecompressionBombError) -> str:
    """Pillow's own limit, in the words of ours."""
    pixels = re.search(r"\d+", str(error))
    return _said("", int(pixels[0]) if pixels else 0, MEMORY / OTHERS)


def _said(size: str, pixels: int, most: float) -> str:
    return (
        f"{size}{pixels / 1e6:.0f} megapixels, are too many to be decoded; make it smaller "
        f"(at most {most / 1e6:.0f})"
    )
