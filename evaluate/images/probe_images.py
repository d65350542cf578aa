"""The probe images of a checkpoint: lossless, in the size in which they were generated.

They are saved next to the contact sheet of the checkpoint, as PNGs in one safetensors file (`0`,
`1`, ...: the rows of the probe set). Their labels and names are those of the sheet. If the file is
missing (it is deleted along with the checkpoint), images are cropped from the sheet.
"""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from evaluate.images.contact_sheet import (
    CELL,
    COPY,
    MAX_CHUNKS,
    MAX_PIXELS,
    Cell,
    read_cells,
    read_positions,
    scaled,
)
from train.data.images.limits import open_within_limits
from train.files.atomic_write import write_atomically
from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError, opened

MAX_BYTES = 2_000_000_000  # bytes of a file; 32 images of 1024x1024 pixels take about 70 MB
# bytes of one of them; 4096x4096 pixels have 50 MB without compression
MAX_IMAGE_BYTES = 60_000_000


def images_file(sheet: Path) -> Path:
    """The path of the probe images that a contact sheet shows."""
    return sheet.with_suffix(".safetensors")


def save_probe_images(images: NDArray[np.uint8], sheet: Path) -> None:
    """Writes the images (N, H, W, 3) of the probes, atomically.

    Raises:
        CheckpointError: they cannot be written.
    """
    files = {str(row): np.frombuffer(_png(image), np.uint8) for row, image in enumerate(images)}
    write_atomically(images_file(sheet), save(files))


def probe_cells(sheet: Path, names: Collection[str]) -> dict[str, Cell]:
    """The named images of a contact sheet, as `read_cells`; probe images from their own file."""
    positions = read_positions(sheet)
    rows = {row: name for name in names if name in positions and (row := _row(name)) is not None}
    try:
        images = read_probe_images(images_file(sheet), rows)
    except (UntrustedFileError, OSError):
        images = {}
    own_images = {rows[row]: image for row, image in images.items()}
    cells = read_cells(sheet, [name for name in names if name not in own_images])
    for name, image in own_images.items():
        cells[name] = Cell(
            scaled(image, CELL), positions[name].label, name, positions[name].flagged
        )
    return {name: cells[name] for name in names if name in cells}


def read_probe_images(file: Path, rows: Collection[int]) -> dict[int, Image.Image]:
    """The images of these rows, in RGB; missing or damaged ones are left out.

    Together they have at most as many pixels as a contact sheet; images beyond that are left out.

    Raises:
        UntrustedFileError: it is not such a file.
        OSError: it is missing or cannot be read.
    """
    header, images, pixels = read_header(file), {}, 0
    with opened(file, MAX_BYTES) as stream:
        for row in rows:
            stored = header.tensors.get(str(row))
            start, stop = stored.data_offsets if stored else (0, 0)
            if not 0 < stop - start <= MAX_IMAGE_BYTES:
                continue
            stream.seek(header.size + start)
            try:
                image = open_within_limits(BytesIO(stream.read(stop - start)), ["PNG"], MAX_CHUNKS)
                pixels += image.width * image.height
                if pixels <= MAX_PIXELS:
                    images[row] = image.convert("RGB")
            except Exception:  # Pillow has many for a damaged file
                continue
    return images


def _row(name: str) -> int | None:
    """The row of a probe in its set, by its image's name on a sheet; None: it is not a probe."""
    role, _, number = name.partition(" ")
    return int(number) if number.isdecimal() and role != COPY else None


def _png(image: NDArray[np.uint8]) -> bytes:
    content = BytesIO()
    Image.fromarray(image).save(content, "PNG", compress_level=1)
    return content.getvalue()
