"""The joints of a body with two arms and two legs.

Angles are in degrees: 0 hangs down, 90 points outward from the body, 180 points up, and negative
ones point inward. A pose has the (upper, lower) limb angles of the active side and of the other
side. The active arm is always the left one, because a caption that could mean either arm makes a
small network draw both; the active leg is random.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

Point = tuple[float, float]
Sides = tuple[tuple[float, float], tuple[float, float]]

ARM_SPREAD, LEG_SPREAD = 7.0, 4.0  # jitter of each angle, to either side
# in the order of COCO's body
JOINTS = (
    "nose", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip


@dataclass(frozen=True)
class Body:
    """Lengths in units of 1/32 of the image side.

    Attributes:
        shoulder, hip: offset from the vertical axis, and height.
        arm, leg: lengths of the upper and of the lower bone.
    """

    shoulder: Point
    hip: Point
    arm: tuple[float, float]
    leg: tuple[float, float]


def sample_angles(rng: Random, arms: Sides, legs: Sides) -> tuple[float, ...]:
    """Jittered angles: left upper arm and forearm, the right ones, then thighs and shins."""
    angles: list[float] = []
    for (active, other), spread, left in ((arms, ARM_SPREAD, 1.0), (legs, LEG_SPREAD, 0.5)):
        sides = (active, other) if rng.random() < left else (other, active)
        angles += [angle + rng.uniform(-spread, spread) for side in sides for angle in side]
    return tuple(angles)


def limb_joints(body: Body, angles: tuple[float, ...]) -> Iterator[tuple[str, Point]]:
    """Names and positions of all joints but the nose; left is the viewer's right."""
    for part, (start, lengths, names) in enumerate((
        (body.shoulder, body.arm, ("shoulder", "elbow", "wrist")),
        (body.hip, body.leg, ("hip", "knee", "ankle")),
    )):  # fmt: skip
        for side, sign in enumerate((1, -1)):
            x, y = 16 + sign * start[0], start[1]
            prefix = ("left_", "right_")[side]
            yield prefix + names[0], (x, y)
            for bone, length in enumerate(lengths):
                angle = math.radians(angles[part * 4 + side * 2 + bone])
                x, y = x + sign * length * math.sin(angle), y + length * math.cos(angle)
                yield prefix + names[bone + 1], (x, y)
