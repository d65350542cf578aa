"""A look at each file before training: is it a picture, which one, and what is odd about it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.data.images.image import DataError, decode_picture
from train.data.images.limits import LARGEST
from train.data.images.rgb import strips
from train.files.untrusted import UntrustedFileError, opened
from train.text.display import shortened

SIDE, EDGE = 32, 3  # pixels: of the small copy, and of its left, upper and right borders
ALIKE = 16.0  # of 255: borders that vary less from picture to picture are one background
BLOCK = 2**20  # bytes of a file that are hashed at a time
ENOUGH = 4  # different pictures, to say so


@dataclass(frozen=True)
class Examined:
    """What was seen of a file.

    Attributes:
        sha256: of the file's bytes.
        content: sha256 of the pixels.
        size: (width, height).
        see_through: whether transparency is filled up.
        animated: whether there are more frames or pages; the first alone is read.
        border: (n, 3) colours along the left, upper and right side of a small copy.
    """

    sha256: str
    content: str
    size: tuple[int, int]
    see_through: bool
    animated: bool
    border: NDArray[np.float32]


def examine(file: Path) -> Examined:
    """Opens a picture.

    Raises:
        DataError: it cannot be read.
    """
    decoded = decode_picture(file)
    picture = decoded.picture
    content = hashlib.sha256(f"{picture.size}".encode())
    for _, strip in strips(picture):
        content.update(strip.tobytes())
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    sides = small[EDGE:, :EDGE], small[EDGE:, -EDGE:], small[:EDGE]
    return Examined(
        sha256=_sha256(file),
        content=content.hexdigest(),
        size=picture.size,
        see_through=decoded.see_through,
        animated=decoded.animated,
        border=np.concatenate([side.reshape(-1, 3) for side in sides]),
    )


def _sha256(file: Path) -> str:
    """Of a file's bytes.

    Raises:
        DataError: it is gone, or another.
    """
    digest = hashlib.sha256()
    try:
        with opened(file, LARGEST) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except (OSError, UntrustedFileError) as error:
        raise DataError(f"{shortened(file)}: cannot be read ({error})") from None
    return digest.hexdigest()


def one_background(seen: Sequence[Examined]) -> bool:
    """Whether the borders of different pictures are all alike: one backdrop, one fixed camera.

    The same room from several sides is not found; plain backdrops and frames are.
    """
    different = list({one.content: one.border for one in seen}.values())
    if len(different) < ENOUGH:
        return False
    return float(np.stack(different).std(axis=0).mean()) < ALIKE


def copies(seen: dict[Path, Examined]) -> list[tuple[Path, Path]]:
    """Pairs of files that show the same, pixel by pixel."""
    ordered = sorted(seen, key=lambda file: seen[file].content)
    return [(a, b) for a, b in pairwise(ordered) if seen[a].content == seen[b].content]
