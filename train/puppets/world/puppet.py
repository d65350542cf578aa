"""Puppets: their looks, pose and background, and how they are sampled.

Lengths are in units of 1/32 of the image side, angles in degrees: 0 hangs down, 90 points outward
from the body, 180 points up.
"""

from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from train.puppets.world.colors import RGB, near, vivid
from train.puppets.world.joints import (
    Body,
    Sides,
    limb_joints,
    normalized_joints,
    sample_angles,
)

# (upper, lower) limb angle of the active side and of the other side
ARMS: dict[str, Sides] = {
    "arms down": ((15, 6), (15, 6)),
    "arms raised": ((160, 174), (160, 174)),
    "arms spread": ((90, 90), (90, 90)),
    "hands on hips": ((54, -50), (54, -50)),
    "arms flexed": ((84, 182), (84, 182)),
    "one arm waving": ((140, 166), (15, 6)),
}
LEGS: dict[str, Sides] = {
    "legs together": ((2, 1), (2, 1)),
    "legs apart": ((24, 20), (24, 20)),
    "one leg lifted": ((78, 2), (3, 1)),
}
BACKGROUNDS = ("on a beach", "in a forest", "in a city", "in the snow", "in a room", "at night")
SHIRTS: dict[str, RGB] = {
    "red": (214, 38, 38), "orange": (246, 132, 28), "yellow": (250, 216, 48),
    "green": (38, 150, 58), "blue": (40, 92, 216), "purple": (134, 58, 170),
    "white": (246, 246, 246), "black": (28, 28, 32),
}  # fmt: skip
TROUSERS: dict[str, RGB] = {
    "red": (200, 34, 40), "blue": (38, 70, 190), "green": (30, 130, 62),
    "purple": (126, 54, 160), "pink": (246, 140, 186), "brown": (118, 70, 34),
    "white": (240, 240, 240), "black": (26, 26, 30),
}  # fmt: skip
SKINS: dict[str, RGB] = {
    "light": (246, 206, 172), "tan": (216, 160, 112), "brown": (152, 96, 60), "dark": (92, 60, 42),
}  # fmt: skip
HAIR: dict[str, RGB] = {
    "black": (24, 22, 24), "brown": (98, 60, 32), "blond": (236, 206, 100), "ginger": (196, 88, 28),
}  # fmt: skip
CAPS: dict[str, RGB] = {
    "red": (214, 38, 38), "blue": (40, 92, 216), "green": (38, 150, 58), "white": (246, 246, 246),
}  # fmt: skip
WILD_HATS = ("top hat", "cone", "crown", "horns", "ears", "mohawk", "antenna")
HATS = ("hair", "cap", *WILD_HATS)

BODY = Body(shoulder=(3.5, 12.7), hip=(1.9, 20.0), arm=(4.4, 4.2), leg=(4.9, 4.8))
HEAD = (16.0, 8.3)


@dataclass(frozen=True)
class Looks:
    """The identity and outfit of a puppet; names are None if captions cannot express them."""

    skin: RGB
    shirt: RGB
    trousers: RGB
    shoes: RGB
    hat: str
    hat_color: RGB
    stripes: RGB | None = None
    shirt_name: str | None = None
    trousers_name: str | None = None
    hat_name: str | None = None
    wild: bool = False


@dataclass(frozen=True)
class Puppet:
    """One puppet in one pose at one place.

    `angles` are those of the left upper arm and forearm, the right ones, then thighs and shins.
    """

    looks: Looks
    arms: str
    legs: str
    background: str
    angles: tuple[float, ...]
    offset: tuple[float, float]
    scale: float
    scene_seed: int


def ordinary_looks(rng: Random, shirt: str | None = None, trousers: str | None = None) -> Looks:
    """A person of the named world: natural skin, hair or a cap, and a named outfit."""
    hat = rng.choice(("hair", "cap"))
    colors = HAIR if hat == "hair" else CAPS
    hat_name = rng.choice(list(colors))
    looks = Looks(
        skin=near(rng, SKINS[rng.choice(list(SKINS))]),
        shirt=(0, 0, 0),
        trousers=(0, 0, 0),
        shoes=near(rng, rng.choice(((40, 34, 30), (110, 66, 34), (225, 225, 225)))),
        hat=hat,
        hat_color=near(rng, colors[hat_name]),
        hat_name=hat_name,
    )
    return with_outfit(looks, rng, shirt, trousers)


def wild_looks(rng: Random) -> Looks:
    """A character that no caption can name: odd skin, hat, stripes and colors."""
    hat = rng.choice(WILD_HATS) if rng.random() < 0.85 else rng.choice(("hair", "cap"))
    return Looks(
        skin=vivid(rng, 0.17, 0.97),  # any hue except natural skin's
        shirt=vivid(rng, 0.0, 1.0),
        trousers=vivid(rng, 0.0, 1.0),
        shoes=vivid(rng, 0.0, 1.0),
        hat=hat,
        hat_color=vivid(rng, 0.0, 1.0),
        stripes=vivid(rng, 0.0, 1.0) if rng.random() < 0.5 else None,
        wild=True,
    )


def with_outfit(
    looks: Looks, rng: Random, shirt: str | None = None, trousers: str | None = None
) -> Looks:
    """The same person in a plain shirt and trousers with names (random if not given)."""
    shirt = shirt or rng.choice(list(SHIRTS))
    trousers = trousers or rng.choice(list(TROUSERS))
    return replace(
        looks,
        shirt=near(rng, SHIRTS[shirt]),
        trousers=near(rng, TROUSERS[trousers]),
        stripes=None,
        shirt_name=shirt,
        trousers_name=trousers,
    )


def sample_looks(rng: Random, wild_share: float = 0.25) -> Looks:
    """Wild looks with the given probability; a third of them have a named outfit."""
    if rng.random() >= wild_share:
        return ordinary_looks(rng)
    looks = wild_looks(rng)
    return with_outfit(looks, rng) if rng.random() < 1 / 3 else looks


def sample_puppet(
    rng: Random,
    looks: Looks | None = None,
    arms: str | None = None,
    legs: str | None = None,
    background: str | None = None,
    wild_share: float = 0.25,
) -> Puppet:
    """A puppet with jittered joints; everything that is not given is random."""
    looks = looks or sample_looks(rng, wild_share)
    arms = arms or rng.choice(list(ARMS))
    legs = legs or rng.choice(list(LEGS))
    angles = sample_angles(rng, ARMS[arms], 8.0, LEGS[legs])
    return Puppet(
        looks=looks,
        arms=arms,
        legs=legs,
        background=background or rng.choice(BACKGROUNDS),
        angles=angles,
        offset=(rng.uniform(-1.2, 1.2), rng.uniform(-0.5, 0.7)),
        scale=rng.uniform(0.95, 1.03),
        scene_seed=rng.getrandbits(31),
    )


def place(puppet: Puppet, x: float, y: float) -> tuple[float, float]:
    """A point of the body in units of the image (the body is scaled about its hips)."""
    dx, dy = puppet.offset
    return 16 + (x - 16) * puppet.scale + dx, 20 + (y - 20) * puppet.scale + dy


def skeleton(puppet: Puppet) -> dict[str, tuple[float, float]]:
    """The position of each joint in units; left is the puppet's own left, the viewer's right."""
    joints = {name: place(puppet, *point) for name, point in limb_joints(BODY, puppet.angles)}
    return {"nose": place(puppet, HEAD[0], HEAD[1] + 0.6), **joints}


def keypoints(puppet: Puppet) -> NDArray[np.float32]:
    """The 13 joints in the order of JOINTS (COCO's body), as fractions of the image side."""
    return normalized_joints(skeleton(puppet))
