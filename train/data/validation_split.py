"""Who is held out: seeded, by content, so that two copies of a picture are never on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence

from train.data.images.image import TrainingImage


def split(
    pictures: Sequence[TrainingImage], fraction: float, seed: int
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Those to train on, and those that are held out.

    A share of the contents is held out of the pictures of all subsets together, and by themselves
    of those whose dataset says a share or a seed of its own. One of each at least is trained on.

    Args:
        fraction: 0 to below 1, where the subset says nothing.
        seed: likewise.
    """
    parts: dict[tuple[float, int], set[str]] = {}
    for picture in pictures:
        own, drawn = picture.subset.validation_fraction, picture.subset.validation_seed
        part = fraction if own is None else own, seed if drawn is None else drawn
        parts.setdefault(part, set()).add(picture.content)
    held_out: set[str] = set()
    for (share, number), contents in parts.items():
        left = sorted(contents - held_out)
        count = max(0, min(round(len(contents) * share), len(left) - 1))
        held_out |= {*random.Random(number).sample(left, count)}
    return without(pictures, held_out), [p for p in pictures if p.content in held_out]


def without(pictures: Sequence[TrainingImage], contents: set[str]) -> list[TrainingImage]:
    """The pictures whose content is none of these."""
    return [picture for picture in pictures if picture.content not in contents]
