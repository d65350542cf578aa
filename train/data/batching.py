"""An epoch as batches: whose sizes come in which order is fixed by the pictures alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from train.config.schema import DataConfig
from train.data.images.buckets import Frame, Framing, Size, framing_of
from train.data.images.image import DataError, TrainingImage
from train.text.display import shortened


@dataclass(frozen=True)
class Batches:
    """The batches of an epoch, the same in every epoch and for every member of a pack.

    All the pictures of a batch have one size, and so have all the members' in the same step; each
    member draws its own within the bucket. The last batch of a bucket may be a small one.

    Attributes:
        buckets: size -> the indices of its pictures, each as often as an epoch shows it.
        sequence: the size and the first place in its bucket of each batch.
        batch_size: the most pictures in a batch.
    """

    buckets: dict[Size, list[int]]
    sequence: list[tuple[Size, int]]
    batch_size: int

    def has(self, order: dict[Size, list[int]]) -> bool:
        """Whether an order is one of these buckets'."""
        return {size: sorted(rows) for size, rows in order.items()} == {
            size: sorted(rows) for size, rows in self.buckets.items()
        }

    def pictures(self, step: int, order: dict[Size, list[int]]) -> list[int]:
        """The pictures of a batch in an epoch of that order."""
        size, first = self.sequence[step]
        return order[size][first : first + self.batch_size]

    def __len__(self) -> int:
        return len(self.sequence)


def plan_batches(
    pictures: Sequence[TrainingImage], frames: Sequence[Frame], batch_size: int
) -> Batches:
    """The batches of an epoch, those of every bucket spread evenly over it."""
    found: dict[Size, list[int]] = defaultdict(list)
    again = list(range(len(pictures)))
    for round_ in count(1):
        for index in again:
            found[frames[index].size].append(index)
        again = [index for index in again if pictures[index].repeats > round_]
        if not again:
            break
    buckets = {size: found[size] for size in sorted(found)}
    placed = []
    for size, shown in buckets.items():
        batches = -(-len(shown) // batch_size)
        placed += [((k + 0.5) / batches, size, k * batch_size) for k in range(batches)]
    return Batches(buckets, [(size, first) for _, size, first in sorted(placed)], batch_size)


def frames_of(pictures: Sequence[TrainingImage], config: DataConfig) -> list[Frame]:
    """How each of the pictures is brought to its size.

    Raises:
        DataError: a picture that is too small for a bucket.
    """
    general = framing_of(config)
    return [frame_of(picture, picture.subset.framing or general) for picture in pictures]


def frame_of(picture: TrainingImage, framing: Framing) -> Frame:
    """How a picture is brought to its size.

    Raises:
        DataError: it is too small for a bucket.
    """
    frame = framing.frame(picture.size)
    if not min(frame.size):
        width, height = picture.size
        raise DataError(
            f"{shortened(picture.path)}: {width}x{height} pixels are too small or too narrow "
            f"for buckets in steps of {framing.step} pixels without enlarging; take it out, or "
            "set data.bucket_upscale=true (bucket_no_upscale = false in a dataset_config)"
        )
    return frame
