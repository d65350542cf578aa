"""The interface of the drawn world: random drawings with images, captions and keypoints."""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from train.puppets.next_world.captions import PHOTO, caption, describe, loose_caption
from train.puppets.next_world.colors import CLOTHES, HAIR_COLORS, HAT_COLORS, SKINS
from train.puppets.next_world.drawing import SIZE, render, render_background
from train.puppets.next_world.puppet import (
    ARMS,
    DISTANCES,
    EXPRESSIONS,
    GAZES,
    HEADS,
    LEGS,
    OUTFITS,
    Looks,
    Puppet,
    keypoints,
    ordinary_looks,
    sample_looks,
    sample_puppet,
    wild_looks,
    with_outfit,
)
from train.puppets.next_world.scenes import BACKGROUNDS
from train.puppets.next_world.styles import STYLES, Style, wild_style
from train.puppets.next_world.toys import Toy, ToyLooks, sample_toy
from train.puppets.world.colors import RGB
from train.puppets.world.joints import JOINTS
from train.puppets.world.parallel_drawing import draw_in_parallel

__all__ = [
    "ARMS", "BACKGROUNDS", "CLOTHES", "DISTANCES", "EXPRESSIONS", "GAZES", "HAIR_COLORS",
    "HAT_COLORS", "HEADS", "JOINTS", "LEGS", "OUTFITS", "PHOTO", "RGB", "SIZE", "SKINS", "STYLES",
    "Drawing", "DrawnImages", "Looks", "Puppet", "Style", "Toy", "ToyLooks", "caption", "describe",
    "draw_many", "images_of", "keypoints", "loose_caption", "ordinary_looks", "render",
    "render_background", "sample_drawing", "sample_looks", "sample_puppet", "sample_toy",
    "wild_looks", "with_outfit",
]  # fmt: skip

TOY_SHARE, STYLED_SHARE, WILD_STYLE_SHARE = 0.15, 0.12, 0.4  # the last one of those with a style
UNNAMED = "an image"  # what captions call a picture in a wild style


@dataclass(frozen=True)
class Drawing:
    """A subject in a style.

    Attributes:
        medium: what captions call it.
    """

    subject: Puppet | Toy
    style: Style = STYLES[PHOTO]
    medium: str = PHOTO


@dataclass(frozen=True)
class DrawnImages:
    """Drawings and their images, (N, 3, 64, 64), 0 to 255."""

    drawings: list[Drawing]
    images: torch.Tensor

    def __len__(self) -> int:
        return len(self.drawings)


def sample_drawing(rng: Random, wild_share: float = 0.25) -> Drawing:
    """A puppet or a toy, mostly in the usual style."""
    if rng.random() < TOY_SHARE:
        subject: Puppet | Toy = sample_toy(rng)
    else:
        subject = sample_puppet(rng, wild_share=wild_share)
    if rng.random() >= STYLED_SHARE:
        return Drawing(subject)
    if rng.random() < WILD_STYLE_SHARE:
        return Drawing(subject, wild_style(rng), UNNAMED)
    medium = rng.choice([name for name in STYLES if name != PHOTO])
    return Drawing(subject, STYLES[medium], medium)


def images_of(drawings: list[Drawing], size: int = SIZE) -> torch.Tensor:
    """The images of drawings, uint8 (N, 3, size, size)."""
    images = np.stack([render(d.subject, size, d.style) for d in drawings])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _draw(seed: int, count: int, wild_share: float) -> tuple[list[Drawing], np.ndarray]:
    rng = Random(seed)
    drawings = [sample_drawing(rng, wild_share) for _ in range(count)]
    return drawings, images_of(drawings).numpy()


def draw_many(count: int, seed: int, wild_share: float = 0.25, workers: int = 2) -> DrawnImages:
    """Random drawings, made by several processes; the same for the same count and seed."""
    return DrawnImages(*draw_in_parallel(_draw, count, seed, wild_share, workers))
