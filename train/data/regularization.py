"""Regularization images (prior preservation, Ruiz et al. 2023): repeated to match the subject's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from train.data.images.image import TrainingImage


def balance_regularization(
    regularization: Sequence[TrainingImage], target: int
) -> list[TrainingImage]:
    """The images, repeated until an epoch has as many of them as of the subject's.

    As in kohya: each has the repeats of its folder, plus one more in turn while there are too few;
    images after the required number are not used.

    Args:
        target: number of the subject's images in an epoch.
    """
    used: list[TrainingImage] = []
    total = 0
    for image in regularization:
        if total >= target:
            break
        used.append(image)
        total += image.repeats
    turns, rest = divmod(max(0, target - total), len(used) or 1)
    return [
        replace(image, repeats=image.repeats + turns + (index < rest))
        for index, image in enumerate(used)
    ]
