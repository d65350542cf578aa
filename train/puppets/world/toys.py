"""Toys: subjects without a body, which stand, lean or lie somewhere in a place.

Lengths are in units of 1/32 of the image side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from train.puppets.world.colors import CLOTHES, INK, RGB, WHITE, near, shaded, vivid
from train.puppets.world.pen import Pen, Point, arc
from train.puppets.world.puppet import DISTANCES
from train.puppets.world.scenes import BACKGROUNDS

TILTS: dict[str, float] = {"upright": 0.0, "leaning": 32.0, "lying": 88.0}  # degrees
SIDES: dict[str, float] = {"on the left": -5.5, "in the middle": 0.0, "on the right": 5.5}
PATTERNS = ("plain", "striped", "dotted")


@dataclass(frozen=True)
class ToyLooks:
    """The identity of a toy.

    Attributes:
        kind: one of KINDS.
        color_name: None if captions cannot express the color.
        pattern: one of PATTERNS; captions never mention it.
    """

    kind: str
    color: RGB
    second_color: RGB
    pattern: str = "plain"
    color_name: str | None = None
    wild: bool = False


@dataclass(frozen=True)
class Toy:
    """A toy at a place: its angle in degrees, its position, and its size."""

    looks: ToyLooks
    tilt: str
    side: str
    background: str
    distance: str
    angle: float
    position: Point
    scale: float
    scene_seed: int


class ToyPen:
    """Draws in the toy's own units: the origin is its middle, and it reaches from -9 to 9."""

    def __init__(self, pen: Pen, toy: Toy) -> None:
        self.pen, self.toy = pen, toy
        angle = math.radians(toy.angle)
        self.cos, self.sin = math.cos(angle), math.sin(angle)

    def at(self, x: float, y: float) -> Point:
        """A point of the image."""
        px, py = self.toy.position
        x, y = x * self.cos - y * self.sin, x * self.sin + y * self.cos
        return px + x * self.toy.scale, py + y * self.toy.scale

    def shape(self, points: Sequence[Point], color: RGB, outlined: bool = True) -> None:
        """A polygon."""
        self.pen.shape([self.at(*p) for p in points], color, outlined)

    def oval(
        self, x: float, y: float, rx: float, ry: float, color: RGB, outlined: bool = True
    ) -> None:
        """An ellipse that turns with the toy."""
        self.shape(arc((x, y), rx, ry, 0, 360, 25)[:-1], color, outlined)

    def path(self, points: Sequence[Point], width: float, color: RGB) -> None:
        """A line with an outline."""
        line = [self.at(*p) for p in points]
        if self.pen.edge:
            self.pen.path(line, width * self.toy.scale + 2 * self.pen.edge, INK)
        self.pen.path(line, width * self.toy.scale, color)

    def pattern(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """The toy's pattern on a rectangle of it."""
        light = shaded(self.toy.looks.color, 1.6)
        if self.toy.looks.pattern == "striped":
            for i in range(3):
                y = y0 + (y1 - y0) * (0.15 + 0.3 * i)
                self.shape([(x0, y), (x1, y), (x1, y + 0.9), (x0, y + 0.9)], light, outlined=False)
        elif self.toy.looks.pattern == "dotted":
            for u, v in ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 1.0)):
                x = x0 + (x1 - x0) * (0.15 + 0.7 * u)
                self.oval(x, y0 + (y1 - y0) * (0.15 + 0.7 * v), 0.8, 0.8, light, outlined=False)


def _lamp(pen: ToyPen) -> None:
    looks = pen.toy.looks
    pen.oval(0, 8.0, 4.6, 1.5, looks.second_color)
    pen.path([(0, 7.6), (0, -1.0)], 1.1, looks.second_color)
    pen.shape([(-2.8, -8.4), (2.8, -8.4), (6.2, -0.4), (-6.2, -0.4)], looks.color)
    pen.pattern(-3.6, -7.0, 3.6, -1.4)


def _robot(pen: ToyPen) -> None:
    looks = pen.toy.looks
    pen.path([(0, -8.6), (0, -6.4)], 0.6, looks.second_color)
    pen.oval(0, -8.6, 1.0, 1.0, (250, 90, 80))
    for s in (-1, 1):
        pen.path([(s * 4.2, 0.8), (s * 6.8, 3.4)], 1.5, looks.second_color)
        pen.path([(s * 2.0, 5.4), (s * 2.0, 7.6)], 2.0, looks.second_color)
        pen.shape([(s * 0.4, 7.4), (s * 4.0, 7.4), (s * 4.0, 9.0), (s * 0.4, 9.0)], INK)
    pen.shape([(-4.2, -0.8), (4.2, -0.8), (4.2, 5.8), (-4.2, 5.8)], looks.color)
    pen.pattern(-3.4, 0.2, 3.4, 5.0)
    pen.shape([(-3.6, -6.6), (3.6, -6.6), (3.6, -1.0), (-3.6, -1.0)], looks.color)
    for s in (-1, 1):
        pen.oval(s * 1.6, -4.4, 1.1, 1.1, WHITE)
        pen.oval(s * 1.6, -4.4, 0.5, 0.5, INK, outlined=False)
    pen.shape([(-1.8, -2.6), (1.8, -2.6), (1.8, -1.9), (-1.8, -1.9)], INK, outlined=False)


def _teapot(pen: ToyPen) -> None:
    looks = pen.toy.looks
    pen.path(arc((5.4, 0.6), 3.0, 3.2, -90, 90), 1.2, looks.second_color)
    pen.shape([(-4.0, 0.6), (-8.6, -3.4), (-7.2, -4.2), (-3.0, -1.6)], looks.color)
    pen.oval(0, 1.4, 6.2, 5.4, looks.color)
    pen.pattern(-3.8, -1.0, 3.8, 4.6)
    pen.shape(arc((0, -3.2), 3.6, 1.8, 180, 360), looks.second_color)
    pen.oval(0, -5.4, 0.9, 0.9, looks.second_color)
    pen.shape([(-3.4, 6.0), (3.4, 6.0), (3.8, 7.2), (-3.8, 7.2)], looks.second_color)


def _car(pen: ToyPen) -> None:
    looks = pen.toy.looks
    pen.shape([(-4.6, -1.0), (-3.0, -5.0), (3.4, -5.0), (5.0, -1.0)], looks.color)
    pen.shape([(-3.2, -1.2), (-2.2, -3.9), (-0.2, -3.9), (-0.2, -1.2)], (176, 220, 244))
    pen.shape([(0.6, -1.2), (0.6, -3.9), (2.7, -3.9), (3.6, -1.2)], (176, 220, 244))
    pen.shape([(-8.6, -1.2), (8.0, -1.2), (8.8, 3.6), (-8.8, 3.6)], looks.color)
    pen.pattern(-5.0, -0.6, 5.0, 3.0)
    pen.oval(7.8, 0.6, 0.8, 0.9, (252, 236, 150))
    for x in (-5.0, 5.0):
        pen.oval(x, 3.8, 2.4, 2.4, INK)
        pen.oval(x, 3.8, 1.1, 1.1, looks.second_color, outlined=False)


def _rocket(pen: ToyPen) -> None:
    looks = pen.toy.looks
    for s in (-1, 1):
        pen.shape([(s * 2.6, 2.4), (s * 6.0, 7.6), (s * 2.4, 6.4)], looks.second_color)
    pen.shape([(-1.6, 6.4), (1.6, 6.4), (0, 9.4)], (252, 176, 60))
    pen.shape([(-3.2, 6.6), *arc((0, -0.6), 3.6, 8.4, 180, 360, 15), (3.2, 6.6)], looks.color)
    pen.pattern(-2.6, 1.8, 2.6, 6.0)
    pen.oval(0, -2.4, 1.7, 1.7, (176, 220, 244))


KINDS: dict[str, Callable[[ToyPen], None]] = {
    "lamp": _lamp, "robot": _robot, "teapot": _teapot, "car": _car, "rocket": _rocket,
}  # fmt: skip


def sample_toy_looks(rng: Random, wild_share: float = 0.25) -> ToyLooks:
    """A toy in a named color, or with the given probability one that captions cannot name."""
    kind = rng.choice(list(KINDS))
    if rng.random() < wild_share:
        return ToyLooks(kind, vivid(rng), vivid(rng), rng.choice(PATTERNS), wild=True)
    color = rng.choice(list(CLOTHES))
    second = near(rng, rng.choice(((228, 226, 220), (96, 98, 108), (206, 160, 80))))
    return ToyLooks(kind, near(rng, CLOTHES[color]), second, color_name=color)


def sample_toy(
    rng: Random,
    looks: ToyLooks | None = None,
    tilt: str | None = None,
    side: str | None = None,
    background: str | None = None,
    distance: str | None = None,
    wild_share: float = 0.25,
) -> Toy:
    """A toy somewhere; everything that is not given is random."""
    tilt = tilt or rng.choice(list(TILTS))
    side = side or rng.choice(list(SIDES))
    distance = distance or rng.choice(list(DISTANCES))
    scale = DISTANCES[distance] * rng.uniform(0.97, 1.03)
    return Toy(
        looks=looks or sample_toy_looks(rng, wild_share),
        tilt=tilt,
        side=side,
        background=background or rng.choice(BACKGROUNDS),
        distance=distance,
        angle=rng.choice((-1, 1)) * (TILTS[tilt] + rng.uniform(-6, 6)),
        position=(16 + SIDES[side] + rng.uniform(-0.8, 0.8), 20.5 + rng.uniform(-0.8, 0.8)),
        scale=scale,
        scene_seed=rng.getrandbits(31),
    )


def draw_toy(pen: Pen, toy: Toy) -> None:
    """The toy alone."""
    KINDS[toy.looks.kind](ToyPen(pen, toy))
