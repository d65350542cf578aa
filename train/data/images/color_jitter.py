"""Color augmentation: a small random change of hue or brightness each time an image is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

SHARE = 1 / 3  # probability of a change
HUES = 16  # maximum change in degrees
GAMMAS = (0.95, 1.05)


@dataclass(frozen=True)
class ColorJitter:
    """A change
    of the colors.

       Attributes:
           hue: shift in degrees.
           gamma: exponent of the brightness; 1: unchanged.
    """

    hue: float
    gamma: float

    def __call__(self, picture: Image.Image) -> Image.Image:
        values = np.asarray(picture.convert("HSV")).copy()
        values[..., 0] += np.uint8(round(self.hue / 360 * 256) % 256)  # wraps around
        turned = Image.fromarray(values, "HSV").convert("RGB")
        curve = [round(255 * (value / 255) ** self.gamma) for value in range(256)]
        return turned.point(curve * 3)


def sample_color_jitter(count: int, random: torch.Generator) -> list[ColorJitter | None]:
    """One for each of `count` images, from the trial's generator: a third of them change in hue or
    in gamma, the others are None."""
    uniform = torch.rand((count, 3), generator=random).tolist()
    low, high = GAMMAS
    jitters: list[ColorJitter | None] = []
    for whether, which, amount in uniform:
        if whether >= SHARE:
            jitters.append(None)
        elif which < 0.5:
            jitters.append(ColorJitter((2 * amount - 1) * HUES, 1.0))
        else:
            jitters.append(ColorJitter(0.0, low + amount * (high - low)))
    return jitters
