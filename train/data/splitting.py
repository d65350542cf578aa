"""Who is held out: seeded, by content, so that two copies of a picture are never on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence

from train.data.picture import Picture


def split(
    pictures: Sequence[Picture], fraction: float, seed: int
) -> tuple[list[Picture], list[Picture]]:
    """Those to train on, and a share of the contents that is held out; one at least is trained on.

    Args:
        fraction: 0 to below 1.
    """
    contents = sorted({picture.content for picture in pictures})
    count = min(round(len(contents) * fraction), len(contents) - 1)
    held_out = set(random.Random(seed).sample(contents, count))
    return without(pictures, held_out), [p for p in pictures if p.content in held_out]


def without(pictures: Sequence[Picture], contents: set[str]) -> list[Picture]:
    """The pictures whose content is none of these."""
    return [picture for picture in pictures if picture.content not in contents]
