"""Draws a puppet's head: hair, face, glasses and hat."""

from collections.abc import Callable

from train.puppets.world.colors import INK, WHITE, luma, shaded
from train.puppets.world.pen import Pen, Point, arc
from train.puppets.world.puppet import HEAD, HEAD_RADIUS, Puppet, place

R = 4.3  # the radius in the units of this file
ZOOM = HEAD_RADIUS / R


class HeadPen:
    """A pen whose origin is the middle of a puppet's head, which has the radius R."""

    def __init__(self, pen: Pen, puppet: Puppet) -> None:
        self.pen, self.puppet, self.scale = pen, puppet, puppet.scale * ZOOM

    def at(self, x: float, y: float) -> Point:
        """A point of the image."""
        return place(self.puppet, HEAD[0] + ZOOM * x, HEAD[1] + ZOOM * y)

    def disc(self, x: float, y: float, rx: float, ry: float, color: tuple[int, int, int],
             outlined: bool = False) -> None:  # fmt: skip
        """See `Pen.disc`."""
        self.pen.disc(self.at(x, y), rx * self.scale, ry * self.scale, color, outlined)

    def shape(self, points: list[Point], color: tuple[int, int, int]) -> None:
        """A polygon with an outline."""
        self.pen.shape([self.at(*p) for p in points], color, outlined=True)

    def path(self, points: list[Point], width: float, color: tuple[int, int, int]) -> None:
        """See `Pen.path`."""
        self.pen.path([self.at(*p) for p in points], width * self.scale, color)


def draw_back_hair(pen: Pen, puppet: Puppet) -> None:
    """What hangs or stands out behind the body."""
    head, looks = HeadPen(pen, puppet), puppet.looks
    if looks.head == "long hair":
        crown = arc((0, -0.4), R + 1.0, R + 0.9, 180, 360, 13)
        head.shape([*crown, (R + 1.5, 7.4), (-R - 1.5, 7.4)],
                   looks.head_color)  # fmt: skip
    elif looks.head == "curly hair":
        for x, y in ((-4.4, -0.6), (4.4, -0.6), (-3.9, -3.2), (3.9, -3.2), (0, -5.0), (-2.2, -4.6),
                     (2.2, -4.6), (-4.2, 1.6), (4.2, 1.6)):  # fmt: skip
            head.disc(x, y, 1.9, 1.9, looks.head_color, outlined=True)


def draw_head(pen: Pen, puppet: Puppet) -> None:
    """The head, its face and what is on it."""
    head, looks = HeadPen(pen, puppet), puppet.looks
    for side in (-1, 1):
        head.disc(side * (R - 0.1), 0.6, 0.9, 1.1, looks.skin, outlined=True)
    head.disc(0, 0, R, R, looks.skin, outlined=True)
    _face(head)
    HAIR_AND_HATS[looks.head](head)


def _face(head: HeadPen) -> None:
    puppet, looks = head.puppet, head.puppet.looks
    tx, ty = puppet.turn
    _nose(head, 1.3 * tx, 1.0 + ty)
    for side in (-1, 1):
        x, y = side * 1.6 + tx, -0.2 + ty
        x = max(-3.3, min(3.3, x))
        head.disc(x, y, 0.95, 1.15, WHITE)
        head.disc(x + 0.18 * tx, y + 0.12 * ty + 0.1, 0.62, 0.72, INK)
        lift = {"flat": (0, 0), "angry": (-0.5, 0.5), "raised": (0.45, -0.5)}[looks.brows]
        brow = [(x - side * 0.9, y - 1.75 - lift[1]), (x + side * 0.9, y - 1.75 + lift[0])]
        head.path(brow, 0.45, INK)
        if looks.glasses:
            _lens(head, x, y, looks.glasses)
    if looks.glasses:
        head.path([(tx - 0.4, -0.3 + ty), (tx + 0.4, -0.3 + ty)], 0.4, INK)
    _mouth(head, 1.1 * tx, 2.5 + 0.9 * ty)


def _lens(head: HeadPen, x: float, y: float, glasses: str) -> None:
    if glasses == "sunglasses":
        head.disc(x, y, 1.45, 1.3, INK)
        head.disc(x - 0.4, y - 0.4, 0.35, 0.3, (120, 120, 140))
        return
    ring = arc((x, y), 1.4, 1.4, 0, 360, 17)
    head.path(ring, 0.42, (60, 40, 40))


def _nose(head: HeadPen, x: float, y: float) -> None:
    color = shaded(head.puppet.looks.skin, 0.78)
    match head.puppet.looks.nose:
        case "dot":
            head.disc(x, y, 0.45, 0.4, color)
        case "triangle":
            corners = ((x, y - 1.0), (x - 0.8, y + 0.6), (x + 0.8, y + 0.6))
            head.pen.shape([head.at(*corner) for corner in corners],
                           color)  # fmt: skip
        case "long":
            head.path([(x, y - 0.9), (x + 0.1, y + 0.6)], 0.75, color)
        case _:
            head.disc(x, y + 0.1, 0.95, 0.85, color)


def _mouth(head: HeadPen, x: float, y: float) -> None:
    lips = (124, 22, 38) if luma(head.puppet.looks.skin) > 110 else (240, 132, 128)
    match head.puppet.expression:
        case "smiling":
            smile = arc((x, y - 0.7), 2.0, 1.9, 0, 180)
            head.pen.shape([head.at(*point) for point in smile], WHITE)
            head.path([*smile, smile[0]], 0.55, lips)
        case "frowning":
            head.path(arc((x, y + 1.3), 1.8, 1.5, 200, 340), 0.85, lips)
        case _:
            head.disc(x, y + 0.3, 1.1, 1.4, lips)


def _short_hair(head: HeadPen) -> None:
    head.shape([*arc((0, -0.3), R + 0.5, R + 0.4, 178, 362, 13), (2.9, -2.2), (-2.9, -2.2)],
               head.puppet.looks.head_color)  # fmt: skip


def _long_hair(head: HeadPen) -> None:
    head.shape([*arc((0, -0.3), R + 0.6, R + 0.6, 172, 368, 13), (3.6, -0.6), (0.4, -2.9),
                (-3.6, -0.6)], head.puppet.looks.head_color)  # fmt: skip


def _curly_hair(head: HeadPen) -> None:
    for x, y in ((-3.0, -2.9), (0.0, -3.7), (3.0, -2.9), (-1.5, -3.4), (1.5, -3.4)):
        head.disc(x, y, 1.35, 1.2, head.puppet.looks.head_color)


def _spiky_hair(head: HeadPen) -> None:
    spikes = [(-4.4, -0.4), (-5.0, -3.6), (-3.2, -3.2), (-3.0, -6.2), (-1.2, -4.4), (0, -7.0),
              (1.2, -4.4), (3.0, -6.2), (3.2, -3.2), (5.0, -3.6), (4.4, -0.4), (2.4, -2.4),
              (-2.4, -2.4)]  # fmt: skip
    head.shape(spikes, head.puppet.looks.head_color)


def _cap(head: HeadPen) -> None:
    side = 1 if head.puppet.turn[0] >= 0 else -1
    color = head.puppet.looks.head_color
    head.shape(arc((0, -1.9), R + 0.2, R - 0.4, 180, 360, 13), color)
    head.shape([(-side * 1.0, -2.7), (side * 6.4, -2.3), (side * 6.2, -1.2), (-side * 1.0, -1.4)],
               shaded(color, 0.8))  # fmt: skip


def _beanie(head: HeadPen) -> None:
    color = head.puppet.looks.head_color
    head.shape(arc((0, -1.8), R + 0.1, R + 0.3, 180, 360, 13), color)
    head.shape([(-4.5, -2.9), (4.5, -2.9), (4.5, -1.3), (-4.5, -1.3)], shaded(color, 1.45))
    head.disc(0, -6.3, 1.2, 1.2, shaded(color, 1.45), outlined=True)


def _top_hat(head: HeadPen) -> None:
    color = head.puppet.looks.head_color
    head.shape([(-3.0, -2.6), (-3.2, -8.0), (3.2, -8.0), (3.0, -2.6)], color)
    head.shape([(-3.1, -4.6), (3.1, -4.6), (3.0, -3.2), (-3.0, -3.2)], shaded(color, 0.55))
    head.shape([(-5.2, -2.1), (-5.2, -3.3), (5.2, -3.3), (5.2, -2.1)], color)


def _sun_hat(head: HeadPen) -> None:
    color = head.puppet.looks.head_color
    head.shape(arc((0, -2.6), 3.3, 3.2, 180, 360, 13), color)
    head.disc(0, -2.3, 6.6, 1.25, shaded(color, 1.3), outlined=True)


def _cone(head: HeadPen) -> None:
    head.shape([(-3.5, -2.1), (0, -8.6), (3.5, -2.1)], head.puppet.looks.head_color)


def _crown(head: HeadPen) -> None:
    head.shape([(-3.6, -1.9), (-4.2, -6.4), (-2.0, -4.2), (0, -7.2), (2.0, -4.2), (4.2, -6.4),
                (3.6, -1.9)], head.puppet.looks.head_color)  # fmt: skip


def _horns(head: HeadPen) -> None:
    for s in (-1, 1):
        head.shape([(s * 1.3, -3.6), (s * 3.5, -2.1), (s * 6.0, -4.4), (s * 5.4, -7.8),
                    (s * 4.0, -5.0)], head.puppet.looks.head_color)  # fmt: skip


def _ears(head: HeadPen) -> None:
    for s in (-1, 1):
        head.shape([(s * 0.6, -3.8), (s * 1.0, -7.6), (s * 2.2, -8.6), (s * 3.3, -7.4),
                    (s * 3.0, -2.9)], head.puppet.looks.head_color)  # fmt: skip


def _mohawk(head: HeadPen) -> None:
    head.shape([(-1.3, -2.4), (-1.8, -6.6), (-0.8, -8.2), (0.8, -8.2), (1.8, -6.6), (1.3, -2.4)],
               head.puppet.looks.head_color)  # fmt: skip


def _antennas(head: HeadPen) -> None:
    for s in (-1, 1):
        head.path([(s * 1.3, -4.0), (s * 2.6, -7.0)], 0.7, INK)
        head.disc(s * 2.8, -7.2, 1.25, 1.25, head.puppet.looks.head_color, outlined=True)


def _wizard_hat(head: HeadPen) -> None:
    color = head.puppet.looks.head_color
    head.shape([(-3.4, -2.6), (-1.0, -6.6), (2.6, -8.4), (1.6, -6.2), (3.4, -2.6)], color)
    head.disc(0, -2.3, 5.4, 1.1, shaded(color, 0.75), outlined=True)


HAIR_AND_HATS: dict[str, Callable[[HeadPen], None]] = {
    "short hair": _short_hair, "long hair": _long_hair, "curly hair": _curly_hair,
    "spiky hair": _spiky_hair, "cap": _cap, "beanie": _beanie, "top hat": _top_hat,
    "sun hat": _sun_hat, "cone": _cone, "crown": _crown, "horns": _horns, "ears": _ears,
    "mohawk": _mohawk, "antennas": _antennas, "wizard hat": _wizard_hat,
}  # fmt: skip
