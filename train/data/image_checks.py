"""Examines each image file before training: whether it is an image, its content, its oddities."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.data.images.image import DataError, decode_image
from train.data.images.limits import MAX_BYTES
from train.data.images.rgb import strips
from train.files.untrusted import UntrustedFileError, opened
from train.text.display import shortened

SIDE, EDGE = 32, 3  # pixels: of the small copy, and of its left, upper and right borders
MAX_BORDER_DEVIATION = 16.0  # of 255: borders that vary less between images are one background
BLOCK = 2**20  # bytes of a file that are hashed at a time
MIN_DISTINCT_IMAGES = 4  # distinct images that such a finding needs


@dataclass(frozen=True)
class ExaminedImage:
    """The properties of an image file.

    Attributes:
        sha256: of the file's bytes.
        content: sha256 of the pixels.
        size: (width, height).
        has_transparency: whether transparency was replaced by white.
        animated: whether there are more frames or pages; only the first one is read.
        border: (n, 3) colors along the left, upper and right side of a small copy.
    """

    sha256: str
    content: str
    size: tuple[int, int]
    has_transparency: bool
    animated: bool
    border: NDArray[np.float32]


def examine(file: Path) -> ExaminedImage:
    """Decodes an image file.

    Raises:
        DataError: it cannot be read.
    """
    decoded = decode_image(file)
    image = decoded.image
    content = hashlib.sha256(f"{image.size}".encode())
    for _, strip in strips(image):
        content.update(strip.tobytes())
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    sides = small[EDGE:, :EDGE], small[EDGE:, -EDGE:], small[:EDGE]
    return ExaminedImage(
        sha256=_sha256(file),
        content=content.hexdigest(),
        size=image.size,
        has_transparency=decoded.has_transparency,
        animated=decoded.animated,
        border=np.concatenate([side.reshape(-1, 3) for side in sides]),
    )


def _sha256(file: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        DataError: it has been deleted or replaced.
    """
    digest = hashlib.sha256()
    try:
        with opened(file, MAX_BYTES) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except (OSError, UntrustedFileError) as error:
        raise DataError(f"{shortened(file)}: cannot be read ({error})") from None
    return digest.hexdigest()


def has_one_background(examined: Sequence[ExaminedImage]) -> bool:
    """Whether the borders of distinct images are all alike, as with one backdrop or fixed camera.

    One room from several sides is not detected; plain backdrops and frames are.
    """
    different = list({image.content: image.border for image in examined}.values())
    if len(different) < MIN_DISTINCT_IMAGES:
        return False
    return float(np.stack(different).std(axis=0).mean()) < MAX_BORDER_DEVIATION


def find_copies(examined: dict[Path, ExaminedImage]) -> list[tuple[Path, Path]]:
    """Pairs of files with identical pixels."""
    ordered = sorted(examined, key=lambda file: examined[file].content)
    return [(a, b) for a, b in pairwise(ordered) if examined[a].content == examined[b].content]
