"""Draws a puppet: vectors at eight times the resolution, box-filtered to the requested size."""

from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from train.puppets.world.colors import RGB, near
from train.puppets.world.puppet import HEAD, Looks, Puppet, place, skeleton

INK: RGB = (20, 16, 24)
EDGE = 0.32  # the outline's width, in units
Point = tuple[float, float]


class Pen:
    """Draws in units of 1/32 of the image side, independent of the canvas' pixels."""

    def __init__(self, pixels: int) -> None:
        """A blank square canvas with `pixels` pixels a side."""
        self.image = Image.new("RGB", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)
        self.unit = pixels / 32

    def box(self, x0: float, y0: float, x1: float, y1: float, color: RGB) -> None:
        """A filled rectangle."""
        u = self.unit
        self.draw.rectangle((x0 * u, y0 * u, x1 * u - 1, y1 * u - 1), fill=color)

    def disc(self, center: Point, rx: float, ry: float, color: RGB) -> None:
        """A filled ellipse."""
        u, (x, y) = self.unit, center
        self.draw.ellipse(((x - rx) * u, (y - ry) * u, (x + rx) * u, (y + ry) * u), fill=color)

    def shape(self, points: list[Point], color: RGB) -> None:
        """A filled polygon."""
        self.draw.polygon([(x * self.unit, y * self.unit) for x, y in points], fill=color)

    def bone(self, a: Point, b: Point, width: float, color: RGB) -> None:
        """A straight limb with round ends."""
        u = self.unit
        ends = [(a[0] * u, a[1] * u), (b[0] * u, b[1] * u)]
        self.draw.line(ends, fill=color, width=round(width * u))
        for end in (a, b):
            self.disc(end, width / 2, width / 2, color)

    def inked(self, points: list[Point], color: RGB) -> None:
        """A filled polygon with an outline."""
        scaled = [(x * self.unit, y * self.unit) for x, y in points]
        self.draw.polygon(scaled, fill=color)
        width = max(1, round(EDGE * self.unit))
        self.draw.line([*scaled, scaled[0]], fill=INK, width=width, joint="curve")


def _beach(pen: Pen, rng: Random) -> None:
    sea, sand = rng.uniform(11, 14), rng.uniform(20, 23)
    pen.box(0, 0, 32, sea, near(rng, (150, 215, 250), 7))
    pen.box(0, sea, 32, sand, near(rng, (30, 150, 200), 7))
    pen.box(0, sand, 32, 32, near(rng, (240, 215, 150), 7))
    pen.disc((rng.choice((4, 28)), rng.uniform(3, 5)), 2.6, 2.6, (255, 240, 120))


def _forest(pen: Pen, rng: Random) -> None:
    ground = rng.uniform(24, 26)
    pen.box(0, 0, 32, ground, near(rng, (120, 175, 130), 7))
    pen.box(0, ground, 32, 32, near(rng, (80, 62, 40), 7))
    crown = near(rng, (24, 92, 48), 7)
    for x in (rng.uniform(2, 5), rng.uniform(10, 13), rng.uniform(19, 22), rng.uniform(27, 30)):
        top = rng.uniform(1, 5)
        pen.box(x - 0.8, 18, x + 0.8, ground, (84, 54, 30))
        pen.shape([(x, top), (x - 4, 19), (x + 4, 19)], crown)


def _city(pen: Pen, rng: Random) -> None:
    street = rng.uniform(26, 28)
    pen.box(0, 0, 32, street, near(rng, (205, 205, 220), 7))
    for left, right in ((0, 8), (9, 17), (18, 24), (25, 32)):
        top, wall = rng.uniform(2, 12), near(rng, (118, 122, 140), 7)
        pen.box(left, top, right, street, wall)
        for y in range(int(top) + 2, 24, 5):
            pen.box(left + 1.5, y, right - 1.5, y + 2, (235, 225, 160))
    pen.box(0, street, 32, 32, near(rng, (72, 72, 80), 7))


def _snow(pen: Pen, rng: Random) -> None:
    ground = rng.uniform(19, 22)
    pen.box(0, 0, 32, ground, near(rng, (172, 200, 228), 7))
    for x in (rng.uniform(3, 10), rng.uniform(21, 29)):
        top = rng.uniform(4, 8)
        pen.shape([(x, top), (x - 10, ground), (x + 10, ground)], near(rng, (126, 150, 186), 7))
        pen.shape([(x, top), (x - 3, top + 4.2), (x + 3, top + 4.2)], (248, 250, 255))
    pen.box(0, ground, 32, 32, near(rng, (238, 243, 248), 7))


def _room(pen: Pen, rng: Random) -> None:
    floor, x = rng.uniform(23, 25.5), rng.choice((2.0, 22.0)) + rng.uniform(-1, 1)
    pen.box(0, 0, 32, floor, near(rng, (226, 186, 170), 7))
    pen.box(0, floor, 32, 32, near(rng, (140, 86, 52), 7))
    pen.box(x - 0.7, 2.3, x + 8.7, 12.7, (250, 246, 236))
    pen.box(x, 3, x + 8, 12, (140, 200, 240))
    pen.box(x + 3.6, 3, x + 4.4, 12, (250, 246, 236))


def _night(pen: Pen, rng: Random) -> None:
    ground = rng.uniform(24, 27)
    sky = near(rng, (22, 26, 66), 7)
    pen.box(0, 0, 32, ground, sky)
    for _ in range(5):
        star = rng.uniform(1, 31), rng.uniform(1, 20)
        pen.disc(star, 0.7, 0.7, (250, 250, 220))
    moon = rng.choice((4.5, 27.5)), rng.uniform(4, 6)
    pen.disc(moon, 2.6, 2.6, (246, 240, 190))
    pen.disc((moon[0] + 1.3, moon[1] - 0.6), 2.1, 2.1, sky)
    pen.box(0, ground, 32, 32, near(rng, (38, 48, 52), 7))


SCENES = {
    "on a beach": _beach, "in a forest": _forest, "in a city": _city, "in the snow": _snow,
    "in a room": _room, "at night": _night,
}  # fmt: skip


def _limb(pen: Pen, parts: list[tuple[Point, Point, float, RGB]]) -> None:
    """Draws the bones of one limb with a common outline."""
    for a, b, width, _ in parts:
        pen.bone(a, b, width + 2 * EDGE, INK)
    for a, b, width, color in parts:
        pen.bone(a, b, width, color)


def _legs(pen: Pen, puppet: Puppet) -> None:
    joints, looks, scale = skeleton(puppet), puppet.looks, puppet.scale
    for side, toe in (("left_", 0.9), ("right_", -0.9)):
        hip, knee, ankle = (joints[side + name] for name in ("hip", "knee", "ankle"))
        shoe = (ankle[0] + toe, ankle[1] + 0.7)
        pen.disc(shoe, 2.1 * scale + EDGE, 1.35 * scale + EDGE, INK)
        _limb(pen, [(hip, knee, 3.0 * scale, looks.trousers),
                    (knee, ankle, 2.7 * scale, looks.trousers)])  # fmt: skip
        pen.disc(shoe, 2.1 * scale, 1.35 * scale, looks.shoes)


def _torso(pen: Pen, puppet: Puppet) -> None:
    looks = puppet.looks
    pen.inked([place(puppet, *p) for p in ((13, 18.6), (19, 18.6), (19.4, 21), (12.6, 21))],
              looks.trousers)  # fmt: skip
    pen.inked([place(puppet, *p) for p in ((11.6, 11.8), (20.4, 11.8), (19.2, 19.2), (12.8, 19.2))],
              looks.shirt)  # fmt: skip
    if looks.stripes is not None:
        for top in (13.2, 15.4, 17.6):
            corners = ((12.0, top), (20.0, top), (19.7, top + 1.1), (12.3, top + 1.1))
            pen.shape([place(puppet, *p) for p in corners], looks.stripes)


def _arms(pen: Pen, puppet: Puppet) -> None:
    joints, looks, scale = skeleton(puppet), puppet.looks, puppet.scale
    for side in ("left_", "right_"):
        shoulder, elbow, wrist = (joints[side + name] for name in ("shoulder", "elbow", "wrist"))
        pen.disc(wrist, 1.55 * scale + EDGE, 1.55 * scale + EDGE, INK)
        _limb(pen, [(elbow, wrist, 2.3 * scale, looks.skin),
                    (shoulder, elbow, 2.6 * scale, looks.shirt)])  # fmt: skip
        pen.disc(wrist, 1.55 * scale, 1.55 * scale, looks.skin)


def _head(pen: Pen, puppet: Puppet) -> None:
    center, r = place(puppet, *HEAD), 3.3 * puppet.scale
    pen.disc(center, r + EDGE, r + EDGE, INK)
    pen.disc(center, r, r, puppet.looks.skin)
    for side in (-1.25, 1.25):
        eye = place(puppet, HEAD[0] + side, HEAD[1] + 0.3)
        pen.disc(eye, 0.75, 0.75, (250, 250, 250))
        pen.disc(eye, 0.5, 0.55, INK)
    mouth = [place(puppet, HEAD[0] + x, HEAD[1] + y) for x, y in ((-1, 1.7), (0, 2.1), (1, 1.7))]
    pen.bone(mouth[0], mouth[1], 0.3, INK)
    pen.bone(mouth[1], mouth[2], 0.3, INK)


def hat_shapes(kind: str) -> list[list[Point]]:
    """The polygons of a hat, in units from the center of the head."""
    if kind == "cap":
        return [[(-3.3, -1.2), (-2.8, -3.0), (-1.2, -4.0), (1.2, -4.0), (2.8, -3.0), (3.3, -1.2)],
                [(-5.0, -0.5), (-5.0, -1.5), (3.5, -1.5), (3.5, -0.5)]]  # fmt: skip
    if kind == "hair":
        return [[(-3.6, 0.9), (-3.7, -1.6), (-2.4, -3.4), (0, -4.1), (2.4, -3.4), (3.7, -1.6),
                 (3.6, 0.9), (2.5, -1.2), (-2.5, -1.2)]]  # fmt: skip
    if kind == "top hat":
        return [[(-2.4, -2.0), (-2.6, -7.4), (2.6, -7.4), (2.4, -2.0)],
                [(-4.4, -1.5), (-4.4, -2.6), (4.4, -2.6), (4.4, -1.5)]]  # fmt: skip
    if kind == "cone":
        return [[(-3.3, -1.7), (0, -8.0), (3.3, -1.7)]]
    if kind == "crown":
        return [[(-3.2, -1.6), (-3.7, -5.6), (-1.7, -3.6), (0, -6.4), (1.7, -3.6), (3.7, -5.6),
                 (3.2, -1.6)]]  # fmt: skip
    if kind == "horns":
        return [[(s * 1.2, -2.7), (s * 3.0, -1.2), (s * 5.4, -4.0), (s * 4.6, -7.0),
                 (s * 3.4, -4.2)] for s in (-1, 1)]  # fmt: skip
    if kind == "ears":
        return [[(s * 0.5, -2.8), (s * 1.0, -7.2), (s * 2.2, -8.0), (s * 3.0, -7.0),
                 (s * 2.6, -2.0)] for s in (-1, 1)]  # fmt: skip
    if kind == "mohawk":
        return [[(-1.3, -1.4), (-1.7, -5.8), (-0.8, -7.4), (0.8, -7.4), (1.7, -5.8), (1.3, -1.4)]]
    return [[(s * 0.8, -2.9), (s * 2.2, -6.4), (s * 3.2, -6.4), (s * 1.9, -2.6)]
            for s in (-1, 1)]  # antenna  # fmt: skip


def _hat(pen: Pen, puppet: Puppet) -> None:
    looks: Looks = puppet.looks
    for shape in hat_shapes(looks.hat):
        pen.inked([place(puppet, HEAD[0] + x, HEAD[1] + y) for x, y in shape], looks.hat_color)
    if looks.hat == "antenna":
        for side in (-2.7, 2.7):
            ball = place(puppet, HEAD[0] + side, HEAD[1] - 6.6)
            pen.disc(ball, 1.4 + EDGE, 1.4 + EDGE, INK)
            pen.disc(ball, 1.4, 1.4, looks.hat_color)


def render_background(background: str, scene_seed: int, size: int = 32) -> NDArray[np.uint8]:
    """The background alone, without a puppet."""
    pen = Pen(8 * size if size <= 32 else 4 * size)
    SCENES[background](pen, Random(scene_seed))
    return np.asarray(pen.image.reduce(pen.image.width // size))


def render(puppet: Puppet, size: int = 32) -> NDArray[np.uint8]:
    """The image of a puppet, (size, size, 3); the same puppet at any size."""
    pen = Pen(8 * size if size <= 32 else 4 * size)
    SCENES[puppet.background](pen, Random(puppet.scene_seed))
    for part in (_legs, _torso, _arms, _head, _hat):
        part(pen, puppet)
    return np.asarray(pen.image.reduce(pen.image.width // size))
