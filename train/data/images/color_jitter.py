"""Color augmentation: a slightly different hue or brightness each time an image is shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torchvision.transforms.v2.functional import adjust_gamma, adjust_hue

ColorJitter = Callable[[Image.Image], Image.Image]
PROBABILITY = 1 / 3  # that a shown image is changed
HUE = 16 / 360  # largest shift to either side, in turns of the color circle
GAMMA = (0.95, 1.05)


def sample_color_jitter(count: int, random: torch.Generator) -> list[ColorJitter | None]:
    """A change for each of `count` images, drawn from a trial's stream of random numbers.

    A third of the images change in hue or in gamma, the others (None) not at all.
    """
    samples = torch.rand((count, 3), generator=random).tolist()
    low, high = GAMMA
    jitters: list[ColorJitter | None] = []
    for whether, which, amount in samples:
        if whether >= PROBABILITY:
            jitters.append(None)
        elif which < 0.5:
            jitters.append(partial(adjust_hue, hue_factor=(2 * amount - 1) * HUE))
        else:
            jitters.append(partial(adjust_gamma, gamma=low + amount * (high - low)))
    return jitters
