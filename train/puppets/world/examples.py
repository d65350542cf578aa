"""The interface of the drawn world: random puppets with images, captions and keypoints."""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from train.puppets.world.captions import caption, describe, loose_caption
from train.puppets.world.colors import RGB
from train.puppets.world.drawing import render, render_background
from train.puppets.world.joints import JOINTS
from train.puppets.world.parallel_drawing import draw_in_parallel
from train.puppets.world.puppet import (
    ARMS,
    BACKGROUNDS,
    CAPS,
    HAIR,
    HATS,
    LEGS,
    SHIRTS,
    SKINS,
    TROUSERS,
    Looks,
    Puppet,
    keypoints,
    ordinary_looks,
    sample_looks,
    sample_puppet,
    wild_looks,
    with_outfit,
)

__all__ = [
    "ARMS", "BACKGROUNDS", "CAPS", "HAIR", "HATS", "JOINTS", "LEGS", "RGB", "SHIRTS", "SKINS",
    "TROUSERS", "DrawnImages", "Looks", "Puppet", "caption", "describe", "draw_many", "images_of",
    "keypoints", "loose_caption", "ordinary_looks", "render", "render_background",
    "sample_looks", "sample_puppet", "wild_looks", "with_outfit",
]  # fmt: skip


@dataclass(frozen=True)
class DrawnImages:
    """Puppets and their images, (N, 3, 32, 32), 0 to 255."""

    puppets: list[Puppet]
    images: torch.Tensor

    def __len__(self) -> int:
        return len(self.puppets)


def images_of(puppets: list[Puppet], size: int = 32) -> torch.Tensor:
    """The images of puppets, uint8 (N, 3, size, size)."""
    images = np.stack([render(puppet, size) for puppet in puppets])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _draw(seed: int, count: int, wild_share: float) -> tuple[list[Puppet], np.ndarray]:
    rng = Random(seed)
    puppets = [sample_puppet(rng, wild_share=wild_share) for _ in range(count)]
    return puppets, images_of(puppets).numpy()


def draw_many(count: int, seed: int, wild_share: float = 0.25, workers: int = 2) -> DrawnImages:
    """Random puppets, drawn by several processes; the same for the same count and seed."""
    return DrawnImages(*draw_in_parallel(_draw, count, seed, wild_share, workers))
