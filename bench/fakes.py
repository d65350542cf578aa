"""Pictures whose truth is known: renders of fresh poses, and copies of a training set's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from train.puppets.demo import Pose
from train.puppets.world.examples import ARMS, LEGS, Puppet, images_of, sample_puppet, with_outfit
from train.puppets.world.puppet import Looks

JITTER = 2.0  # degrees, of a copied pose's limbs
SHIFT = 0.15  # pixels of 32, of a copied picture
NAMED: tuple[Pose, ...] = tuple((arms, legs) for arms in ARMS for legs in LEGS)


@dataclass(frozen=True)
class Design:
    """A training set of poses.

    Attributes:
        poses: pictures, each with its own pose.
        kinds: named poses that they are jittered from; fewer kinds are denser clusters.
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
# no pose is left that the training set does not have: fresh ones differ by their jitter alone
EVERY_KIND = Design("24 poses of all 18 kinds", 24, 18)


@dataclass(frozen=True)
class World:
    """A training set by a design, and the kinds of poses that it lacks."""

    training: list[Puppet]
    fresh_kinds: Sequence[Pose]

    def fresh(self, count: int, random: Random, looks: Looks | None = None) -> list[Puppet]:
        """Pictures in poses that the training set does not have."""
        return [sample_puppet(random, looks, *random.choice(self.fresh_kinds))
                for _ in range(count)]  # fmt: skip

    def copies(self, count: int, random: Random) -> list[Puppet]:
        """Training poses, a little jittered, half of them mirrored, on others at other places."""
        made = []
        for _ in range(count):
            pose, other = jittered(random.choice(self.training), random), sample_puppet(random)
            angles = mirrored(pose.angles) if random.random() < 0.5 else pose.angles
            made.append(replace(other, angles=angles, arms=pose.arms, legs=pose.legs))
        return made


def make_world(design: Design, seed: int, looks: Looks | None = None) -> World:
    """A training set by lot."""
    random = Random(seed)
    kinds = random.sample(NAMED, design.kinds)
    training = [sample_puppet(random, looks, *kinds[i % len(kinds)]) for i in range(design.poses)]
    return World(training, [kind for kind in NAMED if kind not in kinds] or NAMED)


def jittered(puppet: Puppet, random: Random) -> Puppet:
    """The same, its limbs turned by up to JITTER degrees."""
    return replace(puppet, angles=tuple(a + random.uniform(-JITTER, JITTER) for a in puppet.angles))


def mirrored(angles: tuple[float, ...]) -> tuple[float, ...]:
    """The left limbs' angles for the right ones', and the other way round."""
    return tuple(angles[part + side * 2 + bone]
                 for part in (0, 4) for side in (1, 0) for bone in (0, 1))  # fmt: skip


def picture_copies(training: list[Puppet], count: int, random: Random) -> list[Puppet]:
    """Whole training pictures, drawn again with a hair's difference."""
    made = []
    for _ in range(count):
        one = jittered(random.choice(training), random)
        x, y = (place + random.uniform(-SHIFT, SHIFT) for place in one.offset)
        made.append(replace(one, offset=(x, y)))
    return made


def same_kind(training: list[Puppet], count: int, random: Random) -> list[Puppet]:
    """New pictures of training poses by name, at training places, in training clothes."""
    chosen = [random.choice(training) for _ in range(count)]
    return [sample_puppet(random, one.looks, one.arms, one.legs, one.background) for one in chosen]


def as_asked(asked: Sequence[dict[str, str]], looks: Looks, random: Random) -> list[Puppet]:
    """What an ideal LoRA of a character draws for some probes."""
    made = []
    for wish in asked:
        outfit = wish["shirt"].split()[0], wish["trousers"].split()[0]
        dressed = with_outfit(looks, random, *outfit)
        made.append(sample_puppet(random, dressed, wish["arms"], wish["legs"], wish["background"]))
    return made


def drawn(puppets: list[Puppet]) -> Tensor:
    """(N, 3, 32, 32), 0 to 1."""
    return images_of(puppets).float() / 255 if puppets else torch.zeros(0, 3, 32, 32)
