"""The order of an epoch, from the trial's random generator."""

from __future__ import annotations

import torch

from train.data.batching import Batches
from train.data.images.buckets import Size


def shuffled(batches: Batches, random: torch.Generator) -> dict[Size, list[int]]:
    """The images of each bucket in the order of one epoch."""
    orders = {}
    for size, indices in batches.buckets.items():
        order = torch.randperm(len(indices), generator=random).tolist()
        orders[size] = [indices[position] for position in order]
    return orders
