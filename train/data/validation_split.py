"""Selects the held-out images: seeded, by content, so that copies are never on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence

from train.data.images.image import TrainingImage


def split(
    images: Sequence[TrainingImage], fraction: float, seed: int
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """The images to train on, and those that are held out.

    A share of the contents is held out: of the images of all subsets together, and separately of
    datasets with their own share or seed. At least one of each is trained on.

    Args:
        fraction: 0 to below 1, for subsets without their own.
        seed: likewise.
    """
    parts: dict[tuple[float, int], set[str]] = {}
    for image in images:
        own_fraction, own_seed = image.subset.validation_fraction, image.subset.validation_seed
        part = (
            fraction if own_fraction is None else own_fraction,
            seed if own_seed is None else own_seed,
        )
        parts.setdefault(part, set()).add(image.content)
    held_out: set[str] = set()
    for (share, number), contents in parts.items():
        remaining = sorted(contents - held_out)
        count = max(0, min(round(len(contents) * share), len(remaining) - 1))
        held_out |= {*random.Random(number).sample(remaining, count)}
    return without_contents(images, held_out), [i for i in images if i.content in held_out]


def without_contents(images: Sequence[TrainingImage], contents: set[str]) -> list[TrainingImage]:
    """The images whose content is not among these."""
    return [image for image in images if image.content not in contents]
