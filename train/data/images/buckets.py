"""Multi-aspect buckets: each picture is trained in a size near its own shape.

The rule is kohya's. Widths go from the smallest to the largest side by steps; the height of each is
the largest multiple of the step that keeps the area below that of the resolution; both orientations
count, and the nearest aspect ratio wins. Without enlarging, a picture that is too large is shrunk
to the area of the resolution, and its sides are cut down to multiples of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from train.config.schema import DataConfig

Size = tuple[int, int]  # width, height
STEP, FINEST = 64, 8  # pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Frame:
    """How a picture is brought to a size.

    Attributes:
        size: (width, height) of the result.
        box: what is shown, in pixels of the picture.
        scale: pixels of the result to a pixel of the picture.
    """

    size: Size
    box: Box
    scale: float

    @classmethod
    def covering(cls, picture: Size, size: Size) -> Frame:
        """Scaled so that it covers `size`, and cropped in the middle."""
        return cls.cropping(picture, size, max(size[0] / picture[0], size[1] / picture[1]))

    @classmethod
    def cropping(cls, picture: Size, size: Size, scale: float) -> Frame:
        """Scaled, and cropped in the middle; the scaled picture is nowhere smaller than `size`."""
        width, height = (
            min(side / scale, float(whole)) for side, whole in zip(size, picture, strict=True)
        )
        left, top = (picture[0] - width) / 2, (picture[1] - height) / 2
        return cls(size, (left, top, left + width, top + height), scale)

    @property
    def corner(self) -> Size:
        """What the crop leaves away at the left and at the top, in pixels of the scaled picture."""
        return round(self.box[0] * self.scale), round(self.box[1] * self.scale)


TOO_SMALL = Frame((0, 0), (0, 0, 0, 0), 1)  # for any size that there is


@dataclass(frozen=True)
class Framing:
    """Which sizes there are.

    Attributes:
        resolution: (width, height); with buckets only their product counts.
        least, most: the smallest and the largest side of a bucket.
        upscale: small pictures are enlarged; otherwise least and most do not count, as in kohya.
    """

    resolution: Size
    buckets: bool
    least: int
    most: int
    step: int
    upscale: bool

    @property
    def sizes(self) -> tuple[Size, ...]:
        """All the sizes of the buckets."""
        return bucket_sizes(
            self.resolution[0] * self.resolution[1], self.least, self.most, self.step
        )

    def frame(self, picture: Size) -> Frame:
        """The frame of a picture of this size; TOO_SMALL where no size is small enough for it."""
        if not self.buckets:
            return Frame.covering(picture, self.resolution)
        if not self.upscale:
            return self._shrunk(picture)
        if not self.sizes:  # the step is more than the resolution
            return TOO_SMALL
        if picture in self.sizes:
            return Frame.covering(picture, picture)
        aspect = picture[0] / picture[1]
        nearest = min(self.sizes, key=lambda size: abs(size[0] / size[1] - aspect))
        return Frame.covering(picture, nearest)

    def _shrunk(self, picture: Size) -> Frame:
        aspect, area = picture[0] / picture[1], self.resolution[0] * self.resolution[1]
        width, height = picture
        if width * height > area:
            shrunk = math.sqrt(area * aspect)
            wide, high = self._rounded(shrunk), self._rounded(area / shrunk)
            # a side becomes a multiple of the step: the one with which the shape changes less
            by_width = _off(wide, self._rounded(wide / aspect), aspect)
            by_height = _off(self._rounded(high * aspect), high, aspect)
            if by_width < by_height:
                width, height = wide, int(wide / aspect + 0.5)
            else:
                width, height = int(high * aspect + 0.5), high
        size = self._floor(width), self._floor(height)
        if not min(size):
            return TOO_SMALL
        return Frame.cropping(picture, size, max(width / picture[0], height / picture[1]))

    def _floor(self, side: int) -> int:
        return side // self.step * self.step

    def _rounded(self, side: float) -> int:
        """To whole pixels, then down to the step: 383.6 becomes 384, as with kohya."""
        return self._floor(int(side + 0.5))


def framing_of(config: DataConfig) -> Framing:
    """Of a trial's settings.

    Where they are silent the sides go from half the resolution's to twice as much (for 512 that is
    kohya's 256 to 1024) by 64, or by a quarter of a resolution for which that is too coarse. What
    they say becomes multiples of the step, the smallest side downwards and the largest upwards.
    """
    size = (config.resolution, config.height or config.resolution)
    side = math.sqrt(size[0] * size[1])
    step = config.bucket_step or max(FINEST, min(STEP, int(side) // 4 // FINEST * FINEST))
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
    """The sizes of the buckets for an area, in order."""
    side = int(math.sqrt(area)) // step * step
    sizes = {(side, side)} if side else set()
    for width in range(least, most + 1, step):
        height = min(most, area // width // step * step)
        if height >= least:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def _off(width: int, height: int, aspect: float) -> float:
    return abs(width / height - aspect) if height else math.inf
