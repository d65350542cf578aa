"""Colors: how they vary, and the words for them."""

import colorsys
from collections.abc import Mapping
from random import Random

RGB = tuple[int, int, int]


def near(rng: Random, color: RGB, spread: int = 8) -> RGB:
    """A color that differs from the given one by at most `spread` in each channel."""
    r, g, b = (min(255, max(0, c + rng.randint(-spread, spread))) for c in color)
    return r, g, b


def vivid(rng: Random, low: float = 0.0, high: float = 1.0) -> RGB:
    """A random strong color with a hue (0 to 1) between the two ends."""
    hsv = rng.uniform(low, high) % 1.0, rng.uniform(0.45, 0.95), rng.uniform(0.5, 0.97)
    r, g, b = (round(255 * c) for c in colorsys.hsv_to_rgb(*hsv))
    return r, g, b


def color_word(color: RGB, named: Mapping[str, RGB]) -> str:
    """The name of the nearest color, with most weight on the hue."""

    def point(rgb: RGB) -> tuple[float, float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
        chroma = saturation * value
        red, green, blue = colorsys.hsv_to_rgb(hue, 1.0, 1.0)
        return red * chroma, green * chroma, blue * chroma, 0.6 * value

    here = point(color)
    return min(
        named,
        key=lambda name: sum((a - b) ** 2 for a, b in zip(here, point(named[name]), strict=True)),
    )


def skin_word(skin: RGB, named: Mapping[str, RGB]) -> str:
    """The name of the nearest skin; all channels count alike."""
    return min(
        named, key=lambda name: sum((a - b) ** 2 for a, b in zip(skin, named[name], strict=True))
    )
