"""Converts decoded images to RGB in strips, which needs little additional memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BACKDROP = (255, 255, 255)  # replaces transparency
STRIP = 2**20  # pixels
Numbers = NDArray[np.float64]
HALVED = (np.arange(2**16) / 257).round().astype(np.uint8)  # 16 bits to 8


def to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """An image of any mode in RGB, and whether it had transparency.

    Values of 16 and 32 bits, from 0 to 255, and floats, from 0 to 1, are scaled to 0 to 255.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image, False
    in_8_bits = _in_8_bits(image)
    converted, has_transparency = Image.new("RGB", image.size), False
    for top, strip in strips(image):
        filled, clear = _on_backdrop(in_8_bits(strip))
        converted.paste(filled, (0, top))
        has_transparency = has_transparency or clear
    return converted, has_transparency


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Groups of rows of an image, each with the index of its first row."""
    width, height = image.size
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


def _on_backdrop(strip: Image.Image) -> tuple[Image.Image, bool]:
    """A strip in RGB, and whether it had transparency."""
    if not strip.has_transparency_data:
        return strip.convert("RGB"), False
    layer = strip.convert("RGBA")
    clear = bool(np.asarray(layer.getchannel("A")).min() < 255)
    filled = Image.new("RGBA", layer.size, BACKDROP)
    filled.alpha_composite(layer)
    return filled.convert("RGB"), clear


def _in_8_bits(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """A function that converts a strip of the image to 8 bits per channel."""
    if not image.mode.startswith(("I", "F")):
        return lambda strip: strip
    if image.mode.startswith("I;16"):
        return lambda strip: Image.fromarray(HALVED[np.asarray(strip, dtype=np.uint16)])
    maximum = max(_numbers(strip).max() for _, strip in strips(image))
    factor = divisor = 1
    if image.mode == "I" and maximum > 255:
        divisor = 257
    elif image.mode == "F" and maximum <= 1:
        factor = 255

    def scaled(strip: Image.Image) -> Image.Image:
        values = _numbers(strip) * factor / divisor
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))

    return scaled


def _numbers(strip: Image.Image) -> Numbers:
    return np.nan_to_num(np.asarray(strip, dtype=np.float64))
