"""Multi-aspect buckets: each image is trained in a size near its own aspect ratio.

The rule is kohya's. Widths go from the minimum to the maximum side in steps; the height for each is
the largest multiple of the step that keeps the area within that of the resolution; both
orientations count, and the nearest aspect ratio wins. Without upscaling, an image that is too large
is shrunk to the area of the resolution, and its sides are cropped to multiples of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from train.config.schema import DataConfig

Size = tuple[int, int]  # width, height
DEFAULT_STEP, MIN_STEP = 64, 8  # pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Crop:
    """How an image is scaled and cropped to a size.

    Attributes:
        size: (width, height) of the result.
        box: the visible part, in pixels of the image.
        scale: pixels of the result per pixel of the image.
    """

    size: Size
    box: Box
    scale: float

    @classmethod
    def covering(cls, image_size: Size, size: Size) -> Crop:
        """Scaled to cover `size`, and cropped around the center."""
        return cls.centered(image_size, size, max(size[0] / image_size[0], size[1] / image_size[1]))

    @classmethod
    def centered(cls, image_size: Size, size: Size, scale: float) -> Crop:
        """Scaled, and cropped around the center; the scaled image must cover `size`."""
        width, height = (
            min(side / scale, float(whole)) for side, whole in zip(size, image_size, strict=True)
        )
        left, top = (image_size[0] - width) / 2, (image_size[1] - height) / 2
        return cls(size, (left, top, left + width, top + height), scale)

    @property
    def corner(self) -> Size:
        """Pixels of the scaled image that are cropped at the left and at the top."""
        return round(self.box[0] * self.scale), round(self.box[1] * self.scale)


TOO_SMALL = Crop((0, 0), (0, 0, 0, 0), 1)  # the image is smaller than every size


@dataclass(frozen=True)
class Framing:
    """The sizes of training. Its repr is part of fingerprints on disk: do not rename anything.

    Attributes:
        resolution: (width, height); with buckets only the area counts.
        least, most: the minimum and the maximum side of a bucket.
        upscale: enlarge small images; otherwise least and most are ignored, as in kohya.
    """

    resolution: Size
    buckets: bool
    least: int
    most: int
    step: int
    upscale: bool

    @property
    def sizes(self) -> tuple[Size, ...]:
        """All sizes of the buckets."""
        return bucket_sizes(
            self.resolution[0] * self.resolution[1], self.least, self.most, self.step
        )

    def crop(self, image_size: Size) -> Crop:
        """The crop for an image of this size; TOO_SMALL if it is smaller than every size."""
        if not self.buckets:
            return Crop.covering(image_size, self.resolution)
        if not self.upscale:
            return self._crop_without_upscaling(image_size)
        if not self.sizes:  # the step is more than the resolution
            return TOO_SMALL
        if image_size in self.sizes:
            return Crop.covering(image_size, image_size)
        aspect = image_size[0] / image_size[1]
        nearest = min(self.sizes, key=lambda size: abs(size[0] / size[1] - aspect))
        return Crop.covering(image_size, nearest)

    def _crop_without_upscaling(self, image_size: Size) -> Crop:
        aspect, area = image_size[0] / image_size[1], self.resolution[0] * self.resolution[1]
        width, height = image_size
        if width * height > area:
            shrunk = math.sqrt(area * aspect)
            wide, high = self._rounded(shrunk), self._rounded(area / shrunk)
            # one side becomes a multiple of the step: the one that distorts the aspect less
            by_width = _aspect_error(wide, self._rounded(wide / aspect), aspect)
            by_height = _aspect_error(self._rounded(high * aspect), high, aspect)
            if by_width < by_height:
                width, height = wide, int(wide / aspect + 0.5)
            else:
                width, height = int(high * aspect + 0.5), high
        size = self._floor(width), self._floor(height)
        if not min(size):
            return TOO_SMALL
        return Crop.centered(image_size, size, max(width / image_size[0], height / image_size[1]))

    def _floor(self, side: int) -> int:
        return side // self.step * self.step

    def _rounded(self, side: float) -> int:
        """Rounds to whole pixels, then down to the step: 383.6 becomes 384, as in kohya."""
        return self._floor(int(side + 0.5))


def framing_of(config: DataConfig) -> Framing:
    """The sizes of a trial's settings.

    By default the sides range from half the resolution to twice the resolution (for 512 kohya's 256
    to 1024) in steps of 64, or of a quarter of a small resolution. Given sides are rounded to
    multiples of the step, the minimum downwards and the maximum upwards.
    """
    size = (config.resolution, config.height or config.resolution)
    side = math.sqrt(size[0] * size[1])
    step = config.bucket_step or max(
        MIN_STEP, min(DEFAULT_STEP, int(side) // 4 // MIN_STEP * MIN_STEP)
    )
    least = config.min_bucket or math.ceil(side / 2 / step) * step
    most = config.max_bucket or side * 2
    return Framing(
        resolution=size,
        buckets=config.buckets,
        least=max(least // step, 1) * step,
        most=math.ceil(most / step) * step,
        step=step,
        upscale=config.bucket_upscale,
    )


@lru_cache(maxsize=64)
def bucket_sizes(area: int, least: int, most: int, step: int) -> tuple[Size, ...]:
    """The sizes of the buckets for an area, sorted."""
    side = int(math.sqrt(area)) // step * step
    sizes = {(side, side)} if side else set()
    for width in range(least, most + 1, step):
        height = min(most, area // width // step * step)
        if height >= least:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def _aspect_error(width: int, height: int, aspect: float) -> float:
    return abs(width / height - aspect) if height else math.inf
