"""Regularisation pictures (Ruiz et al. 2023, prior preservation): shown as often as the subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from train.data.images.image import TrainingImage


def balanced(regularization: Sequence[TrainingImage], shown: int) -> list[TrainingImage]:
    """The pictures, repeated until an epoch shows them as often as those of the subject.

    As kohya does it: each has the repeats of its folder, and then one more in its turn while there
    are too few; those that come after there are enough are not used.

    Args:
        shown: how many pictures of the subject an epoch shows.
    """
    used: list[TrainingImage] = []
    enough = 0
    for picture in regularization:
        if enough >= shown:
            break
        used.append(picture)
        enough += picture.repeats
    turns, rest = divmod(max(0, shown - enough), len(used) or 1)
    return [
        replace(picture, repeats=picture.repeats + turns + (place < rest))
        for place, picture in enumerate(used)
    ]
