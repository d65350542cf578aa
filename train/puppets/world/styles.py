"""The drawing styles of the world: how outlines are drawn and how surfaces are filled."""

from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from train.puppets.world.colors import LUMA, RGB, WHITE, vivid

Pixels = NDArray[np.float32]  # (H, W, 3), 0 to 1
EDGE = 0.28  # width of the outlines in units


@dataclass(frozen=True)
class Style:
    """How a picture is drawn.

    Attributes:
        edge: width of the outlines in units of 1/32 of the side; 0 for none.
        fill: plain colors, pale surfaces between the lines, or lines that are denser where it
            is darker.
        paper: the color behind the lines.
        ink: the color of the lines; None: each line has the color of what it shows.
        spacing: of hatched lines, in units.
        slope: of hatched lines: 1 rises, -1 falls.
    """

    edge: float = EDGE
    fill: Literal["plain", "pale", "hatched"] = "plain"
    paper: RGB = WHITE
    ink: RGB | None = None
    spacing: float = 2.2
    slope: int = 1


PHOTO = "a photo"
# what captions call a picture in each style
STYLES: dict[str, Style] = {
    PHOTO: Style(),
    "a flat drawing": Style(edge=0),
    "an outline drawing": Style(edge=0.36, fill="pale"),
    "a hatched drawing": Style(fill="hatched"),
}


def wild_style(rng: Random) -> Style:
    """A style that no caption can name."""
    paper = vivid(rng)
    light: RGB = tuple(round(255 - (255 - c) * 0.3) for c in paper)  # type: ignore[assignment]
    return Style(
        edge=rng.choice((0.0, EDGE, 0.45)),
        fill=rng.choice(("pale", "hatched")),
        paper=light,
        ink=vivid(rng) if rng.random() < 0.7 else None,
        spacing=rng.uniform(2.0, 2.8),
        slope=rng.choice((-1, 1)),
    )


def fill_surfaces(style: Style, pixels: Pixels) -> Pixels:
    """Fills a drawing in plain colors as a pale or hatched style wants.

    Args:
        pixels: at the resolution at which it was drawn.
    """
    paper = np.array(style.paper, np.float32) / 255
    darkness = 1 - pixels @ np.array(LUMA, np.float32)
    line = pixels if style.ink is None else np.array(style.ink, np.float32) / 255
    if style.fill == "pale":
        # ink stays, and everything else fades to the paper
        cover = np.clip((darkness - 0.75) / 0.1, 0.12, 1)[..., None]
        return paper + cover * (line - paper)
    side = len(pixels)
    y, x = np.mgrid[:side, :side].astype(np.float32) * np.float32(32 / side)
    phase = ((x + style.slope * y) / style.spacing) % 1
    wave = 2 * np.abs(phase - 0.5)  # 0 to 1: the distance from the middle of a line
    cover = (wave < darkness * 1.15)[..., None].astype(np.float32)
    return paper + cover * (line - paper)
