"""Renders with known ground truth: images in fresh poses, and copies of training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from train.puppets.demo import Pose
from train.puppets.world.examples import (
    ARMS,
    LEGS,
    SIZE,
    Drawing,
    Looks,
    Puppet,
    images_of,
    sample_puppet,
    with_outfit,
)

JITTER_DEGREES = 2.0  # of the limbs of a copied pose
MAX_SHIFT = 0.15  # of a copied image, in 1/32 of its side
NAMED_POSES: tuple[Pose, ...] = tuple((arms, legs) for arms in ARMS for legs in LEGS)


@dataclass(frozen=True)
class Design:
    """Specification of a training set.

    Attributes:
        poses: number of images, each with its own pose.
        kinds: number of named poses that these are jittered from; fewer kinds give denser clusters.
    """

    name: str
    poses: int
    kinds: int


DESIGNS = (
    Design("3 poses", 3, 3),
    Design("3 poses, clustered", 3, 1),
    Design("8 poses", 8, 8),
    Design("8 poses, clustered", 8, 2),
    Design("24 poses", 24, 12),
    Design("24 poses, clustered", 24, 6),
)
# covers every named pose: a fresh image differs from the training set only by its jitter
ALL_KINDS = Design("36 poses of all 36 kinds", 36, 36)


@dataclass(frozen=True)
class PoseSet:
    """A training set drawn from a design, and the named poses that it lacks."""

    training: list[Puppet]
    fresh_kinds: Sequence[Pose]

    def fresh(self, count: int, random: Random, looks: Looks | None = None) -> list[Puppet]:
        """Returns puppets in poses that the training set lacks."""
        return [sample_puppet(random, looks, *random.choice(self.fresh_kinds))
                for _ in range(count)]  # fmt: skip

    def pose_copies(self, count: int, random: Random) -> list[Puppet]:
        """Returns other puppets, in other places, in slightly jittered training poses.

        Half of the poses are mirrored.
        """
        copies = []
        for _ in range(count):
            pose, other = jitter(random.choice(self.training), random), sample_puppet(random)
            angles = mirror(pose.angles) if random.random() < 0.5 else pose.angles
            copies.append(replace(other, angles=angles, arms=pose.arms, legs=pose.legs))
        return copies


def make_pose_set(design: Design, seed: int, looks: Looks | None = None) -> PoseSet:
    """Draws a random training set from a design."""
    random = Random(seed)
    kinds = random.sample(NAMED_POSES, design.kinds)
    training = [sample_puppet(random, looks, *kinds[i % len(kinds)]) for i in range(design.poses)]
    fresh_kinds = [kind for kind in NAMED_POSES if kind not in kinds] or NAMED_POSES
    return PoseSet(training, fresh_kinds)


def jitter(puppet: Puppet, random: Random) -> Puppet:
    """Returns the puppet with each limb rotated by up to JITTER_DEGREES."""
    limit = JITTER_DEGREES
    return replace(puppet, angles=tuple(a + random.uniform(-limit, limit) for a in puppet.angles))


def mirror(angles: tuple[float, ...]) -> tuple[float, ...]:
    """Swaps the angles of the left and the right limbs."""
    return tuple(angles[part + side * 2 + bone]
                 for part in (0, 4) for side in (1, 0) for bone in (0, 1))  # fmt: skip


def image_copies(training: list[Puppet], count: int, random: Random) -> list[Puppet]:
    """Returns near-duplicates of whole training images, with a tiny jitter and shift."""
    copies = []
    for _ in range(count):
        puppet = jitter(random.choice(training), random)
        x, y = (place + random.uniform(-MAX_SHIFT, MAX_SHIFT) for place in puppet.position)
        copies.append(replace(puppet, position=(x, y)))
    return copies


def same_kind_puppets(training: list[Puppet], count: int, random: Random) -> list[Puppet]:
    """Returns new puppets that agree with training images in everything that has a name."""
    chosen = [random.choice(training) for _ in range(count)]
    return [
        sample_puppet(random, one.looks, one.arms, one.legs, one.background, one.gaze,
                      one.expression, one.distance)
        for one in chosen
    ]  # fmt: skip


def ideal_puppets(requests: Sequence[dict[str, str]], looks: Looks, random: Random) -> list[Puppet]:
    """Returns what an ideal LoRA of a character generates for the requested attributes."""
    puppets = []
    for request in requests:
        dressed = with_outfit(looks, random, request["outfit"], request["color"])
        puppets.append(
            sample_puppet(random, dressed, request["arms"], request["legs"], request["background"])
        )
    return puppets


def render(puppets: list[Puppet]) -> Tensor:
    """Returns images of shape (N, 3, 64, 64) with values from 0 to 1."""
    if not puppets:
        return torch.zeros(0, 3, SIZE, SIZE)
    return images_of([Drawing(puppet) for puppet in puppets]).float() / 255
