"""The colors of the drawn world, with and without names."""

import colorsys
from collections.abc import Mapping
from random import Random

RGB = tuple[int, int, int]

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in the brightness (Rec. 601)
INK: RGB = (24, 20, 30)
WHITE: RGB = (250, 248, 244)
CLOTHES: dict[str, RGB] = {
    "red": (214, 40, 40), "yellow": (250, 214, 50), "green": (52, 148, 60),
    "turquoise": (44, 196, 190), "blue": (44, 90, 214), "purple": (136, 60, 172),
    "pink": (246, 140, 186), "black": (44, 42, 50),
}  # fmt: skip
SKINS: dict[str, RGB] = {
    "light": (248, 212, 180), "tan": (222, 168, 120), "brown": (160, 104, 66),
    "dark": (104, 70, 50),
}  # fmt: skip
HAIR_COLORS: dict[str, RGB] = {
    "black": (38, 34, 40), "brown": (112, 68, 36), "blond": (238, 206, 104),
    "ginger": (206, 96, 36),
}  # fmt: skip
HAT_COLORS: dict[str, RGB] = {
    name: CLOTHES[name] for name in ("red", "yellow", "green", "blue")
}  # fmt: skip
# all names that a description may use for a color
NAMED: dict[str, RGB] = {
    **CLOTHES, "white": WHITE, "gray": (136, 136, 142), "brown": (118, 72, 38),
    "orange": (246, 132, 28),
}  # fmt: skip


def shaded(color: RGB, factor: float) -> RGB:
    """A darker (factor below 1) or lighter (above 1, toward white) color."""
    r, g, b = (c * factor if factor <= 1 else 255 - (255 - c) * (2 - factor) for c in color)
    return round(r), round(g), round(b)


def luma(color: RGB) -> float:
    """Brightness, 0 to 255."""
    return sum(weight * channel for weight, channel in zip(LUMA, color, strict=True))


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
