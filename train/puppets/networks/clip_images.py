"""What the tiny CLIP sees: batches of drawings, and their images and heads, changed a little.

Some drawings of a batch differ in little, others in everything.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from train.puppets.networks.targets import HEAD_ABOVE, HEAD_SIDE, heads_of
from train.puppets.networks.training import device, weathered
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    EXPRESSIONS,
    GAZES,
    LEGS,
    Drawing,
    DrawnImages,
    describe,
    images_of,
    sample_looks,
    sample_puppet,
    sample_toy,
)
from train.puppets.world.toys import KINDS, sample_toy_looks

IMAGE_SIDE = 96  # pixels
SAME_PLACE_SHARE = 0.3  # of a batch have one background, which then tells nothing apart
TWINS_SHARE = 0.25  # of a batch are a few puppets in all poses, which only the pose tells apart
TOYS_SHARE = 0.2  # of a batch are toys of one kind, two images of each


def batches(
    data: DrawnImages, rng: Random
) -> Callable[[Tensor], tuple[list[Drawing], Tensor, list[str]]]:
    """Maps indices to drawings, their images and descriptions, always mixed in the same way.

    A part of the batch is twins, a part toys alike, a part at one place, and the rest random.
    """
    at_place = [
        torch.tensor([i for i, d in enumerate(data.drawings) if d.subject.background == name])
        for name in BACKGROUNDS
    ]

    def batch_of(index: Tensor) -> tuple[list[Drawing], Tensor, list[str]]:
        shares = (TWINS_SHARE, TOYS_SHARE, SAME_PLACE_SHARE)
        twin_count, toy_count, place_count = (int(share * len(index)) for share in shares)
        alike = twins(twin_count, rng) + toys_alike(toy_count, rng)
        index = index[len(alike) :].clone()
        pool = rng.choice(at_place)
        index[:place_count] = pool[torch.randint(0, len(pool), (place_count,))]
        drawings = [data.drawings[i] for i in index.tolist()]
        texts = [describe(d.subject, rng, d.medium, 1.0) for d in alike]
        texts += [describe(d.subject, rng, d.medium, completeness(rng)) for d in drawings]
        return [*alike, *drawings], torch.cat([images_of(alike), data.images[index]]), texts

    return batch_of


def completeness(rng: Random) -> float:
    """Completeness of a description: mostly full, sometimes only one or two phrases."""
    return rng.choices((0.2, 0.6, 1.0), (3, 3, 4))[0]


def twins(count: int, rng: Random) -> list[Drawing]:
    """A few puppets, each at one place and in every pose: only the pose and the face tell them
    apart."""
    poses = [*product(ARMS, LEGS)]
    drawings: list[Drawing] = []
    while len(drawings) < count:
        looks, place = sample_looks(rng), rng.choice(BACKGROUNDS)
        drawings += [
            Drawing(sample_puppet(rng, looks, arms, legs, place, rng.choice(GAZES),
                                  rng.choice(EXPRESSIONS)))
            for arms, legs in poses
        ]  # fmt: skip
    return drawings[:count]


def toys_alike(count: int, rng: Random) -> list[Drawing]:
    """Toys of one kind, two images of each: their colors and patterns tell them apart."""
    kind = rng.choice(list(KINDS))
    looks = [replace(sample_toy_looks(rng, 0.5), kind=kind) for _ in range((count + 1) // 2)]
    return [Drawing(sample_toy(rng, each)) for each in (*looks, *looks)][:count]


def prepared(images: Tensor) -> Tensor:
    """open_clip's preprocessing."""
    resized = F.interpolate(images, (IMAGE_SIDE, IMAGE_SIDE), mode="bicubic", antialias=True)
    return (resized.clamp(0, 1) - 0.5) / 0.25


def random_crops(count: int) -> tuple[Tensor, Tensor]:
    """Crops of at least 92% of the side: centers (N, 2) and sides (N,), as shares of the side."""
    sides = 1 - 0.08 * torch.rand(count, device=device())
    return 0.5 + (1 - sides)[:, None] * (torch.rand(count, 2, device=device()) - 0.5), sides


def crops_of_heads(drawings: list[Drawing]) -> tuple[Tensor, Tensor]:
    """Crops of puppets' heads, roughly as the scores make them."""
    noses, units = heads_of(drawings)
    offset = 0.2 * torch.randn(len(drawings), 2, device=noses.device)
    offset[:, 1] -= HEAD_ABOVE
    sides = HEAD_SIDE * units * (0.85 + 0.4 * torch.rand(len(drawings), device=noses.device))
    return noses + offset * units[:, None], sides


def augmented(images: Tensor, centers: Tensor, sides: Tensor) -> Tensor:
    """Adds noise and blur, and slight changes of brightness and color, and then crops."""
    n, side = len(images), images.shape[-1]
    images = weathered(images)
    gain = 1 + 0.06 * torch.randn(n, 3, 1, 1, device=images.device)
    images = (images * gain + 0.02 * torch.randn(n, 3, 1, 1, device=images.device)).clamp(0, 1)
    matrix = torch.zeros(n, 2, 3, device=images.device)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = sides, sides, 2 * centers - 1
    grid = F.affine_grid(matrix, [n, 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
