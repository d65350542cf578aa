"""Splits an epoch into batches: the sequence of their sizes depends on the images only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from train.config.schema import DataConfig
from train.data.images.buckets import Crop, Framing, Size, framing_of
from train.data.images.image import DataError, TrainingImage
from train.text.display import shortened


@dataclass(frozen=True)
class Batches:
    """The batches of an epoch, the same in every epoch and for every trial of a pack.

    All images of a batch have one size, also across the trials of a pack in the same step; each
    trial samples its own images within the bucket. The last batch of a bucket may be smaller.

    Attributes:
        buckets: size -> indices of its images, each as often as it occurs in an epoch.
        sequence: the size of each batch and its first position in that bucket.
        batch_size: the maximum number of images in a batch.
    """

    buckets: dict[Size, list[int]]
    sequence: list[tuple[Size, int]]
    batch_size: int

    def matches(self, order: dict[Size, list[int]]) -> bool:
        """Whether an order is a permutation of these buckets."""
        return {size: sorted(rows) for size, rows in order.items()} == {
            size: sorted(rows) for size, rows in self.buckets.items()
        }

    def images(self, step: int, order: dict[Size, list[int]]) -> list[int]:
        """Indices of the images of a batch, for an epoch in that order."""
        size, first = self.sequence[step]
        return order[size][first : first + self.batch_size]

    def __len__(self) -> int:
        return len(self.sequence)


def plan_batches(
    images: Sequence[TrainingImage], crops: Sequence[Crop], batch_size: int
) -> Batches:
    """The batches of an epoch, with those of every bucket spread evenly over it."""
    by_size: dict[Size, list[int]] = defaultdict(list)
    remaining = list(range(len(images)))
    for repeat in count(1):
        for index in remaining:
            by_size[crops[index].size].append(index)
        remaining = [index for index in remaining if images[index].repeats > repeat]
        if not remaining:
            break
    buckets = {size: by_size[size] for size in sorted(by_size)}
    placed = []
    for size, indices in buckets.items():
        batches = -(-len(indices) // batch_size)
        placed += [((k + 0.5) / batches, size, k * batch_size) for k in range(batches)]
    return Batches(buckets, [(size, first) for _, size, first in sorted(placed)], batch_size)


def crops_of(images: Sequence[TrainingImage], config: DataConfig) -> list[Crop]:
    """The scale and crop of each image.

    Raises:
        DataError: an image is too small for a bucket.
    """
    default_framing = framing_of(config)
    return [crop_of(image, image.subset.framing or default_framing) for image in images]


def crop_of(image: TrainingImage, framing: Framing) -> Crop:
    """The scale and crop of an image.

    Raises:
        DataError: it is too small for a bucket.
    """
    crop = framing.crop(image.size)
    if not min(crop.size):
        width, height = image.size
        raise DataError(
            f"{shortened(image.path)}: {width}x{height} pixels are too small or too narrow "
            f"for buckets in steps of {framing.step} pixels without enlarging; remove it, or "
            "set data.bucket_upscale=true (bucket_no_upscale = false in a dataset_config)"
        )
    return crop
