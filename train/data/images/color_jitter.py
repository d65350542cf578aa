"""Colour augmentation: a little other hue or brightness each time a picture is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

SHARE = 1 / 3  # of the times that a picture is shown
HUES = 16  # degrees to either side
GAMMAS = (0.95, 1.05)


@dataclass(frozen=True)
class ColorJitter:
    """A change of the colours.

    Attributes:
        hue: turned by so many degrees.
        gamma: brightness to this power; 1: as it is.
    """

    hue: float
    gamma: float

    def __call__(self, picture: Image.Image) -> Image.Image:
        values = np.asarray(picture.convert("HSV")).copy()
        values[..., 0] += np.uint8(round(self.hue / 360 * 256) % 256)  # goes round by itself
        turned = Image.fromarray(values, "HSV").convert("RGB")
        curve = [round(255 * (value / 255) ** self.gamma) for value in range(256)]
        return turned.point(curve * 3)


def sample_color_jitter(count: int, random: torch.Generator) -> list[ColorJitter | None]:
    """One for each of `count` pictures, from a member's stream: a third of them change in hue or
    in gamma, the others not at all."""
    drawn = torch.rand((count, 3), generator=random).tolist()
    low, high = GAMMAS
    tints: list[ColorJitter | None] = []
    for whether, which, amount in drawn:
        if whether >= SHARE:
            tints.append(None)
        elif which < 0.5:
            tints.append(ColorJitter((2 * amount - 1) * HUES, 1.0))
        else:
            tints.append(ColorJitter(0.0, low + amount * (high - low)))
    return tints
