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

from train.data.picture import decode_picture

SIDE, EDGE = 32, 3  # pixels: of the small copy, and of its left, upper and right borders
ALIKE = 16.0  # of 255: borders that vary less from picture to picture are one background
ENOUGH = 4  # different pictures, to say so


@dataclass(frozen=True)
class Examined:
    """What was seen of a file.

    Attributes:
        sha256: of the file's bytes.
        content: sha256 of the pixels.
        size: (width, height).
        see_through: whether transparency is filled up.
        frames: of an animation, or pages; the first alone is read.
        border: (n, 3) colours along the left, upper and right side of a small copy.
    """

    sha256: str
    content: str
    size: tuple[int, int]
    see_through: bool
    frames: int
    border: NDArray[np.float32]


def examine(file: Path) -> Examined:
    """Opens a picture.

    Raises:
        DataError: it cannot be read.
    """
    decoded = decode_picture(file)
    picture = decoded.picture
    content = hashlib.sha256(f"{picture.size}".encode())
    content.update(picture.tobytes())
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    sides = small[EDGE:, :EDGE], small[EDGE:, -EDGE:], small[:EDGE]
    return Examined(
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        content=content.hexdigest(),
        size=picture.size,
        see_through=decoded.see_through,
        frames=decoded.frames,
        border=np.concatenate([side.reshape(-1, 3) for side in sides]),
    )


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
