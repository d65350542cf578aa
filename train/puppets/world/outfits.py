"""Draws a puppet's body and clothes."""

from dataclasses import dataclass
from functools import partial

from train.puppets.world.colors import INK, RGB, WHITE, shaded
from train.puppets.world.pen import Pen, Point
from train.puppets.world.puppet import Looks, Puppet, place, skeleton

MAIN, SECOND, SKIN = "main", "second", "skin"
Corners = list[Point]
TORSO: Corners = [(12.3, 13.2), (19.7, 13.2), (18.9, 21.2), (13.1, 21.2)]


@dataclass(frozen=True)
class Cut:
    """Which color each part of an outfit has.

    Attributes:
        torso, sleeve, cuff, thigh, shin: MAIN, SECOND or SKIN.
    """

    torso: str = MAIN
    sleeve: str = MAIN
    cuff: str = SKIN
    thigh: str = SECOND
    shin: str = SECOND


CUTS: dict[str, Cut] = {
    "shirt": Cut(),
    "striped shirt": Cut(cuff=MAIN),
    "dotted shirt": Cut(cuff=MAIN),
    "dress": Cut(thigh=SKIN, shin=SKIN),
    "skirt": Cut(torso=SECOND, sleeve=SECOND, thigh=SKIN, shin=SKIN),
    "suit": Cut(cuff=MAIN, thigh=MAIN, shin=MAIN),
    "coat": Cut(cuff=MAIN),
    "hoodie": Cut(cuff=MAIN, shin=SKIN),
    "pair of dungarees": Cut(torso=SECOND, sleeve=SECOND, cuff=SECOND, thigh=MAIN, shin=MAIN),
    "apron": Cut(torso=SECOND, sleeve=SECOND, cuff=SKIN),
}


def color_of(looks: Looks, part: str) -> RGB:
    """The color of a part of the outfit, see `Cut`."""
    return {MAIN: looks.color, SECOND: looks.second_color, SKIN: looks.skin}[part]


def draw_legs(pen: Pen, puppet: Puppet) -> None:
    """Both legs with their shoes."""
    joints, looks, scale = skeleton(puppet), puppet.looks, puppet.scale
    cut = CUTS[looks.outfit]
    thigh, shin = color_of(looks, cut.thigh), color_of(looks, cut.shin)
    for side, toe in (("left_", 0.8), ("right_", -0.8)):
        hip, knee, ankle = (joints[side + name] for name in ("hip", "knee", "ankle"))
        pen.limb([(hip, knee, 2.9 * scale, thigh), (knee, ankle, 2.4 * scale, shin)])
        shoe = (ankle[0] + toe * scale, ankle[1] + 0.6 * scale)
        pen.disc(shoe, 2.0 * scale, 1.25 * scale, looks.shoes, outlined=True)


def _placed(puppet: Puppet, corners: Corners) -> Corners:
    return [place(puppet, *corner) for corner in corners]


def draw_torso(pen: Pen, puppet: Puppet) -> None:
    """The torso and what is on it."""
    looks = puppet.looks
    skin, main = looks.skin, looks.color
    at = partial(_placed, puppet)
    pen.shape(at([(14.8, 12.2), (17.2, 12.2), (17.4, 14.2), (14.6, 14.2)]), skin, outlined=True)
    if looks.accessory == "backpack":
        pen.shape(at([(11.2, 14.0), (20.8, 14.0), (20.8, 19.4), (11.2, 19.4)]),
                  looks.accessory_color, outlined=True)  # fmt: skip
    pen.shape(at(TORSO), color_of(looks, CUTS[looks.outfit].torso), outlined=True)
    match looks.outfit:
        case "striped shirt":
            for y in (14.8, 17.0, 19.2):
                left = 12.3 + 0.1 * (y - 13.2)
                right = 32 - left
                lower = [(right - 0.1, y + 1.0), (left + 0.1, y + 1.0)]
                pen.shape(at([(left, y), (right, y), *lower]),
                          WHITE)  # fmt: skip
        case "dotted shirt":
            for x, y in ((13.8, 14.9), (16.0, 16.0), (18.2, 14.9), (14.1, 17.6), (17.9, 17.6),
                         (16.0, 19.3), (13.9, 20.1), (18.1, 20.1)):  # fmt: skip
                pen.disc(place(puppet, x, y), 0.6 * puppet.scale, 0.6 * puppet.scale, WHITE)
        case "dress":
            pen.shape(
                at([(13.3, 18.4), (18.7, 18.4), (21.6, 25.4), (10.4, 25.4)]), main, outlined=True
            )
            pen.shape(
                at([(13.3, 18.2), (18.7, 18.2), (18.8, 19.1), (13.2, 19.1)]), shaded(main, 0.65)
            )
        case "skirt":
            pen.shape(
                at([(13.2, 19.6), (18.8, 19.6), (21.4, 25.0), (10.6, 25.0)]), main, outlined=True
            )
        case "suit":
            pen.shape(at([(14.4, 13.3), (17.6, 13.3), (16, 18.0)]), WHITE, outlined=True)
            pen.shape(at([(15.5, 13.7), (16.5, 13.7), (16.4, 16.8), (15.6, 16.8)]), INK)
            pen.path(at([(16, 18.0), (16, 21.0)]), 0.35 * puppet.scale, INK)
        case "coat":
            pen.shape(at([(12.6, 18), (19.4, 18), (20.2, 26.0), (11.8, 26.0)]), main, outlined=True)
            pen.shape(at([(12.9, 17.0), (19.1, 17.0), (19.2, 19), (12.8, 19)]), main)
            pen.path(at([(16, 13.6), (16, 26.0)]), 0.35 * puppet.scale, INK)
            for y in (15.6, 18.2, 20.8):
                pen.disc(place(puppet, 17.2, y), 0.45 * puppet.scale, 0.45 * puppet.scale, WHITE)
        case "hoodie":
            pen.shape(
                at([(13.6, 18.0), (18.4, 18.0), (18.9, 20.4), (13.1, 20.4)]), shaded(main, 0.7)
            )
            collar = at([(13.2, 13.4), (14.2, 14.6), (17.8, 14.6), (18.8, 13.4)])
            pen.path(collar, 1.1 * puppet.scale,
                     shaded(main, 0.7))  # fmt: skip
        case "pair of dungarees":
            pen.shape(
                at([(13.8, 16.2), (18.2, 16.2), (18.9, 21.4), (13.1, 21.4)]), main, outlined=True
            )
            for x0, x1 in ((14.3, 13.4), (17.7, 18.6)):
                pen.path(at([(x0, 16.4), (x1, 13.4)]), 0.9 * puppet.scale, main)
        case "apron":
            pen.shape(at([(14.0, 15.0), (18.0, 15.0), (19.3, 19.0), (19.7, 25.2), (12.3, 25.2),
                          (12.7, 19.0)]), main, outlined=True)  # fmt: skip
            pen.shape(
                at([(14.2, 20.4), (17.8, 20.4), (17.6, 22.6), (14.4, 22.6)]), shaded(main, 0.7)
            )
    _accessory(pen, puppet)


def _accessory(pen: Pen, puppet: Puppet) -> None:
    looks, scale = puppet.looks, puppet.scale
    color = looks.accessory_color
    at = partial(_placed, puppet)
    match looks.accessory:
        case "scarf":
            pen.shape(
                at([(17.0, 14.4), (18.9, 14.4), (19.0, 19.0), (17.2, 19.0)]), color, outlined=True
            )
            left, right = at([(13.4, 13.7), (18.6, 13.7)])
            pen.limb([(left, right, 1.9 * scale, color)])
        case "bow tie":
            pen.shape(at([(16, 14.4), (13.7, 13.2), (13.7, 15.6)]), color, outlined=True)
            pen.shape(at([(16, 14.4), (18.3, 13.2), (18.3, 15.6)]), color, outlined=True)
        case "backpack":
            for x in (13.3, 18.7):
                pen.path(at([(x, 13.5), (x, 18.6)]), 0.9 * scale, color)


def draw_arms(pen: Pen, puppet: Puppet) -> None:
    """Both arms with their hands."""
    joints, looks, scale = skeleton(puppet), puppet.looks, puppet.scale
    cut = CUTS[looks.outfit]
    sleeve, cuff = color_of(looks, cut.sleeve), color_of(looks, cut.cuff)
    for side in ("left_", "right_"):
        shoulder, elbow, wrist = (joints[side + name] for name in ("shoulder", "elbow", "wrist"))
        pen.disc(wrist, 1.4 * scale, 1.4 * scale, looks.skin, outlined=True)
        pen.limb([(elbow, wrist, 1.9 * scale, cuff), (shoulder, elbow, 2.3 * scale, sleeve)])
        pen.disc(wrist, 1.4 * scale, 1.4 * scale, looks.skin)
        _thumb(pen, elbow, wrist, side, puppet)


def _thumb(pen: Pen, elbow: Point, wrist: Point, side: str, puppet: Puppet) -> None:
    """A thumb on the inner side of the hand."""
    dx, dy = wrist[0] - elbow[0], wrist[1] - elbow[1]
    length = max(1e-6, (dx * dx + dy * dy) ** 0.5)
    sign = 1 if side == "left_" else -1
    normal = (sign * -dy / length, sign * dx / length)
    root = wrist[0] + dx / length * 0.5, wrist[1] + dy / length * 0.5
    reach = 1.7 * puppet.scale
    tip = root[0] - normal[0] * reach, root[1] - normal[1] * reach
    pen.limb([(root, tip, 0.8 * puppet.scale, puppet.looks.skin)])
