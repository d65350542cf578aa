"""The interface of the drawn world: random drawings with images, captions and keypoints."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random

import numpy as np
import torch

from train.puppets.world.captions import caption, describe, loose_caption
from train.puppets.world.colors import CLOTHES
from train.puppets.world.drawing import SIZE, render, render_background
from train.puppets.world.joints import JOINTS
from train.puppets.world.puppet import (
    ARMS,
    EXPRESSIONS,
    GAZES,
    LEGS,
    OUTFITS,
    Looks,
    Puppet,
    keypoints,
    ordinary_looks,
    sample_looks,
    sample_puppet,
    with_outfit,
)
from train.puppets.world.scenes import BACKGROUNDS
from train.puppets.world.styles import PHOTO, STYLES, Style, wild_style
from train.puppets.world.toys import Toy, ToyLooks, sample_toy

__all__ = [
    "ARMS", "BACKGROUNDS", "CLOTHES", "EXPRESSIONS", "GAZES", "JOINTS", "LEGS", "OUTFITS",
    "SIZE", "Drawing", "DrawnImages", "Looks", "Puppet", "Style", "Toy", "ToyLooks", "caption",
    "describe", "draw_many", "images_of", "keypoints", "loose_caption", "ordinary_looks",
    "render", "render_background", "sample_drawing", "sample_looks", "sample_puppet",
    "sample_toy", "with_outfit",
]  # fmt: skip

TOY_SHARE, STYLED_SHARE, WILD_STYLE_SHARE = 0.15, 0.12, 0.4  # the last one of those with a style
CHUNK = 2000  # images that one process draws at a time
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
        subject: Puppet | Toy = sample_toy(rng, wild_share=wild_share)
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
    """Random drawings, made by several processes.

    They are the same for the same count and seed, whatever the number of workers.
    """
    counts = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    seeds = [seed * 1_000_003 + i for i in range(len(counts))]
    # a forked child of a process with threads can hang
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        parts = list(pool.map(_draw, seeds, counts, [wild_share] * len(counts)))
    drawings = [drawing for chunk, _ in parts for drawing in chunk]
    return DrawnImages(drawings, torch.from_numpy(np.concatenate([part for _, part in parts])))
