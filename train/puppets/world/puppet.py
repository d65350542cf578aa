"""Puppets: their looks, pose and place, and how they are sampled.

Lengths are in units of 1/32 of the image side.
"""

from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from train.puppets.world.colors import CLOTHES, HAIR_COLORS, HAT_COLORS, RGB, SKINS, near, vivid
from train.puppets.world.joints import JOINTS, Body, Sides, limb_joints, sample_angles
from train.puppets.world.scenes import BACKGROUNDS

ARMS: dict[str, Sides] = {
    "arms down": ((14, 5), (14, 5)),
    "arms raised": ((148, 160), (148, 160)),
    "arms spread": ((90, 90), (90, 90)),
    "hands on hips": ((56, -54), (56, -54)),
    "arms flexed": ((84, 166), (84, 166)),
    "one arm waving": ((128, 172), (14, 5)),
    "one arm pointing": ((92, 90), (56, -54)),
    "arms crossed": ((20, -112), (20, -98)),
    "hands on head": ((112, -152), (112, -152)),
}
LEGS: dict[str, Sides] = {
    "legs together": ((2, 1), (2, 1)),
    "legs apart": ((26, 22), (26, 22)),
    "one leg lifted": ((82, 0), (3, 1)),
    "squatting": ((72, -14), (72, -14)),
}
GAZES = ("looking ahead", "looking sideways", "looking up")
DISTANCES: dict[str, float] = {"close up": 0.9, "a few steps away": 0.77, "far away": 0.65}
OUTFITS = (
    "shirt", "striped shirt", "dotted shirt", "dress", "skirt", "suit", "coat", "hoodie",
    "pair of dungarees", "apron",
)  # fmt: skip
HAIRSTYLES = ("short hair", "long hair", "curly hair", "spiky hair")
HATS = ("cap", "beanie", "top hat", "sun hat")
WILD_HATS = ("cone", "crown", "horns", "ears", "mohawk", "antennas", "wizard hat")
HEADS = (*HAIRSTYLES, *HATS, *WILD_HATS)
EXPRESSIONS = ("smiling", "frowning", "surprised")
GLASSES = ("glasses", "sunglasses")
ACCESSORIES = ("scarf", "bow tie", "backpack")
BROWS, NOSES = ("flat", "angry", "raised"), ("dot", "triangle", "long", "round")

BODY = Body(shoulder=(3.5, 14.4), hip=(1.9, 21.6), arm=(4.6, 4.4), leg=(3.9, 3.7))
HEAD, HEAD_RADIUS = (16.0, 7.6), 5.8
ANKLE = BODY.hip[1] + sum(BODY.leg)  # height of the ankles of a straight body


@dataclass(frozen=True)
class Looks:
    """The identity and outfit of a puppet.

    Attributes:
        head: one of HEADS.
        brows, nose: one of BROWS and NOSES; captions never mention them.
        outfit: one of OUTFITS, with its main and its second color.
        color_name, head_color_name: None if captions cannot express the colors.
        glasses, accessory: None for none.
    """

    skin: RGB
    head: str
    head_color: RGB
    outfit: str
    color: RGB
    second_color: RGB
    shoes: RGB
    brows: str = "flat"
    nose: str = "dot"
    glasses: str | None = None
    accessory: str | None = None
    accessory_color: RGB = (200, 60, 60)
    color_name: str | None = None
    head_color_name: str | None = None
    wild: bool = False


@dataclass(frozen=True)
class Puppet:
    """One puppet in one pose at one place.

    `angles` are those of the left upper arm and forearm, the right ones, then thighs and shins.
    `turn` is the offset of the face's features from the middle of the head.
    """

    looks: Looks
    arms: str
    legs: str
    background: str
    gaze: str
    expression: str
    distance: str
    angles: tuple[float, ...]
    turn: tuple[float, float]
    position: tuple[float, float]
    scale: float
    scene_seed: int


def ordinary_looks(rng: Random, outfit: str | None = None, color: str | None = None) -> Looks:
    """A person of the named world: natural skin, hair or a hat, and a named outfit."""
    head = rng.choice((*HAIRSTYLES, *HATS))
    colors = HAIR_COLORS if head in HAIRSTYLES else HAT_COLORS
    head_color = rng.choice(list(colors))
    looks = Looks(
        skin=near(rng, SKINS[rng.choice(list(SKINS))]),
        head=head,
        head_color=near(rng, colors[head_color]),
        outfit="shirt",
        color=(0, 0, 0),
        second_color=(0, 0, 0),
        shoes=near(rng, rng.choice(((58, 50, 46), (124, 78, 44), (228, 226, 222)))),
        brows=rng.choice(BROWS),
        nose=rng.choice(NOSES),
        glasses=rng.choice(GLASSES) if rng.random() < 0.25 else None,
        accessory=rng.choice(ACCESSORIES) if rng.random() < 0.25 else None,
        accessory_color=near(rng, rng.choice(list(CLOTHES.values()))),
        head_color_name=head_color,
    )
    return with_outfit(looks, rng, outfit, color)


def wild_looks(rng: Random) -> Looks:
    """A character that no caption can name: odd skin, head, and colors."""
    head = rng.choice(WILD_HATS) if rng.random() < 0.8 else rng.choice((*HAIRSTYLES, *HATS))
    return Looks(
        skin=vivid(rng, 0.17, 0.97),  # any hue except natural skin's
        head=head,
        head_color=vivid(rng),
        outfit=rng.choice(OUTFITS),
        color=vivid(rng),
        second_color=vivid(rng),
        shoes=vivid(rng),
        brows=rng.choice(BROWS),
        nose=rng.choice(NOSES),
        glasses=rng.choice(GLASSES) if rng.random() < 0.25 else None,
        accessory=rng.choice(ACCESSORIES) if rng.random() < 0.25 else None,
        accessory_color=vivid(rng),
        wild=True,
    )


def with_outfit(
    looks: Looks, rng: Random, outfit: str | None = None, color: str | None = None
) -> Looks:
    """The same person in an outfit with a name (random if not given)."""
    outfit = outfit or rng.choice(OUTFITS)
    color = color or rng.choice(list(CLOTHES))
    second = {"shirt": (86, 92, 120), "striped shirt": (86, 92, 120), "hoodie": (110, 112, 120),
              "coat": (70, 66, 74), "apron": (104, 116, 140)}  # fmt: skip
    return replace(
        looks,
        outfit=outfit,
        color=near(rng, CLOTHES[color]),
        second_color=near(rng, second.get(outfit, (240, 238, 232))),
        color_name=color,
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
    gaze: str | None = None,
    expression: str | None = None,
    distance: str | None = None,
    wild_share: float = 0.25,
) -> Puppet:
    """A puppet with jittered joints; everything that is not given is random."""
    looks = looks or sample_looks(rng, wild_share)
    arms = arms or rng.choice(list(ARMS))
    legs = legs or rng.choice(list(LEGS))
    gaze = gaze or rng.choice(GAZES)
    distance = distance or rng.choice(list(DISTANCES))
    angles = sample_angles(rng, ARMS[arms], LEGS[legs])
    turn = {
        "looking ahead": (rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.2)),
        "looking sideways": (rng.uniform(1.5, 1.8), rng.uniform(-0.1, 0.2)),
        "looking up": (rng.uniform(-0.2, 0.2), rng.uniform(-1.7, -1.4)),
    }[gaze]
    scale = DISTANCES[distance] * rng.uniform(0.97, 1.03)
    room = 1.0 + 9.0 * (1 - scale)  # to the sides
    return Puppet(
        looks=looks,
        arms=arms,
        legs=legs,
        background=background or rng.choice(BACKGROUNDS),
        gaze=gaze,
        expression=expression or rng.choice(EXPRESSIONS),
        distance=distance,
        angles=angles,
        turn=turn,
        position=(16 + rng.uniform(-room, room), 31.4 - 4.5 * (1 - scale) - rng.uniform(0, 0.6)),
        scale=scale,
        scene_seed=rng.getrandbits(31),
    )


def place(puppet: Puppet, x: float, y: float) -> tuple[float, float]:
    """A point of the body in units of the image.

    The lower ankle stands on the ground, whose height is `position[1]`; the body is scaled about
    this point.
    """
    ground = ANKLE + 1.9 - lowering(puppet)
    px, py = puppet.position
    return px + (x - 16) * puppet.scale, py + (y - ground) * puppet.scale


def lowering(puppet: Puppet) -> float:
    """How much lower than a straight body's the body of these legs is, in its own units."""
    joints = dict(limb_joints(BODY, puppet.angles))
    return ANKLE - max(joints["left_ankle"][1], joints["right_ankle"][1])


def skeleton(puppet: Puppet) -> dict[str, tuple[float, float]]:
    """The position of each joint in units; left is the puppet's own left, the viewer's right."""
    nose = HEAD[0] + 1.15 * puppet.turn[0], HEAD[1] + 0.9 + puppet.turn[1]
    joints = {name: place(puppet, *point) for name, point in limb_joints(BODY, puppet.angles)}
    return {"nose": place(puppet, *nose), **joints}


def keypoints(puppet: Puppet) -> NDArray[np.float32]:
    """The 13 joints in the order of JOINTS, as fractions of the image side."""
    joints = skeleton(puppet)
    return np.array([joints[name] for name in JOINTS], np.float32) / np.float32(32)
