"""Draws shapes in units of 1/32 of the image side, with the line and fill of a style."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from train.puppets.world.colors import INK, RGB

SIDE = 32.0  # units of the image side
Point = tuple[float, float]


class Pen:
    """A square canvas.

    Args:
        pixels: of a side.
        edge: width of the outlines in units; 0 for none.
    """

    def __init__(self, pixels: int, edge: float) -> None:
        self.image = Image.new("RGB", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)
        self.unit = pixels / SIDE
        self.edge = edge

    def box(self, x0: float, y0: float, x1: float, y1: float, color: RGB) -> None:
        """A filled rectangle without an outline."""
        u = self.unit
        self.draw.rectangle((x0 * u, y0 * u, x1 * u - 1, y1 * u - 1), fill=color)

    def disc(self, center: Point, rx: float, ry: float, color: RGB, outlined: bool = False) -> None:
        """A filled ellipse."""
        u, (x, y) = self.unit, center
        if outlined and self.edge:
            self.disc(center, rx + self.edge, ry + self.edge, INK)
        self.draw.ellipse(((x - rx) * u, (y - ry) * u, (x + rx) * u, (y + ry) * u), fill=color)

    def shape(self, points: Sequence[Point], color: RGB, outlined: bool = False) -> None:
        """A filled polygon."""
        scaled = [(x * self.unit, y * self.unit) for x, y in points]
        self.draw.polygon(scaled, fill=color)
        if outlined and self.edge:
            self.path([*points, points[0]], 1.6 * self.edge, INK)

    def path(self, points: Sequence[Point], width: float, color: RGB) -> None:
        """A line through points, with round joints and ends."""
        scaled = [(x * self.unit, y * self.unit) for x, y in points]
        self.draw.line(scaled, fill=color, width=max(1, round(width * self.unit)), joint="curve")
        for end in (points[0], points[-1]):
            self.disc(end, width / 2, width / 2, color)

    def limb(self, bones: Sequence[tuple[Point, Point, float, RGB]]) -> None:
        """Bones (two ends, width, color) with one outline around all of them."""
        if self.edge:
            for a, b, width, _ in bones:
                self.path((a, b), width + 2 * self.edge, INK)
        for a, b, width, color in bones:
            self.path((a, b), width, color)


def arc(
    center: Point, rx: float, ry: float, start: float, end: float, count: int = 9
) -> list[Point]:
    """Points of an elliptic arc; angles in degrees, 0 to the right, 90 down."""
    angles = [math.radians(start + (end - start) * i / (count - 1)) for i in range(count)]
    return [(center[0] + rx * math.cos(a), center[1] + ry * math.sin(a)) for a in angles]
