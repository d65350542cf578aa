"""The order of an epoch, from a member's own stream of random numbers."""

from __future__ import annotations

import torch

from train.data.batching import Batches
from train.data.images.buckets import Size


def shuffled(batches: Batches, random: torch.Generator) -> dict[Size, list[int]]:
    """The pictures of each bucket in the order of one epoch."""
    orders = {}
    for size, shown in batches.buckets.items():
        order = torch.randperm(len(shown), generator=random).tolist()
        orders[size] = [shown[place] for place in order]
    return orders
