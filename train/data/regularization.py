"""Regularisation pictures (Ruiz et al. 2023, prior preservation): shown as often as the subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from train.data.picture import Picture


def balanced(regularization: Sequence[Picture], shown: int) -> list[Picture]:
    """The pictures, repeated until an epoch shows them as often as those of the subject.

    As kohya does it: each has the repeats of its folder, and then one more in its turn while there
    are too few; those that come after there are enough are not used.

    Args:
        shown: how many pictures of the subject an epoch shows.
    """
    repeats: list[int] = []
    for picture in regularization:
        if sum(repeats) >= shown:
            break
        repeats.append(picture.repeats)
    turn = 0
    while repeats and sum(repeats) < shown:
        repeats[turn % len(repeats)] += 1
        turn += 1
    return [
        replace(picture, repeats=times)
        for picture, times in zip(regularization, repeats, strict=False)
    ]
