"""Contact sheets: the probe images of a checkpoint, and the images of a dataset."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from msgspec import Meta
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from evaluate.prompts.roles import CAPTION, CLASS, FRESH
from evaluate.scorecard import Scorecard
from train.config.parsing import cause
from train.data.images.limits import open_within_limits
from train.files.atomic_write import write_atomically
from train.files.untrusted import UntrustedFileError, opened, parse_json
from train.text.display import LINES, printable, shortened

if TYPE_CHECKING:
    from torch import Tensor

    from evaluate.prompts.probe_set import ProbeSet

CELL, GAP, COLUMNS, HEADING, LINE = 160, 8, 6, 28, 14
BACKGROUND, INK, GRAY, RED = (250, 250, 250), (20, 20, 20), (110, 110, 110), (201, 42, 42)
CELLS = "cells"  # the key of the cell positions in a sheet's PNG metadata
DATA_SHEET = "data.png"  # in a study's folder
TRAINING = "training"  # the role of a training image on a data sheet
# Limits of a sheet: its pixels (the width times the rows of 4096 probes, the maximum of
# probes.count), its named images, and the bytes and chunks of its file (Pillow writes a chunk for
# each 64 kB).
MAX_PIXELS, MAX_CELLS, MAX_BYTES, MAX_CHUNKS = 150_000_000, 5000, 250_000_000, 5000
COPY = "copy"  # the role of a training image that is shown next to its copy
MAX_IMAGES, WIDTH = 120, 26  # images on a data sheet; characters in a line below an image
MAX_LABEL_CHARACTERS = 2000  # characters of a label; a caption may be of any length
TITLES = {
    FRESH: "fresh probes, with what they ask for",
    CLASS: "the class alone, without the trigger word",
    CAPTION: "training captions",
}


class CellPosition(NamedTuple):
    """Position of a named image on a sheet, as its file states: upper left corner, in pixels."""

    name: Annotated[str, Meta(max_length=100)]
    label: Annotated[str, Meta(max_length=20_000)]
    flagged: bool
    x: Annotated[int, Meta(ge=0, le=MAX_PIXELS)]
    y: Annotated[int, Meta(ge=0, le=MAX_PIXELS)]


class Cell(NamedTuple):
    """An image, a label below it, its name (role and number), and whether it has a red frame."""

    image: Image.Image
    label: str = ""
    name: str = ""
    flagged: bool = False


class Section(NamedTuple):
    """Cells under one heading, with at most `lines` lines of text each."""

    title: str
    cells: Sequence[Cell]
    lines: int

    @property
    def height(self) -> int:
        """In pixels."""
        rows = -(-len(self.cells) // COLUMNS)
        return HEADING + rows * (CELL + self.lines * LINE + GAP)


def contact_sheet(scorecard: Scorecard, probe_set: ProbeSet, training: Tensor) -> Image.Image:
    """Training images, every probe image with its attributes below it, and the copies.

    A copy has a red frame, and is shown again at the end next to the training image.

    Args:
        scorecard: with its images.
        training: (n, 3, H, W), 0 to 1.

    Raises:
        ValueError: a scorecard without images.
    """
    if scorecard.images is None:
        raise ValueError("a scorecard that was read from a file has no images")
    images, copies = scorecard.images, scorecard.copies
    spread = np.linspace(0, len(training) - 1, min(COLUMNS, len(training))).round().astype(int)
    sections = [Section("training images", [Cell(to_pil(p)) for p in training[spread]], 0)]
    for role, title in TITLES.items():
        cells = []
        for row in probe_set.rows(role):
            probe = probe_set.probes[row]
            label = ", ".join(probe.asked.values()) or probe.prompt
            name = f"{role} {row}"
            cells.append(Cell(Image.fromarray(images[row]), label, name, row in copies))
        if cells:
            sections.append(Section(f"{scorecard.label}: {title}", cells, 3))
    pairs = []
    for row, nearest in copies.items():
        pairs.append(Cell(Image.fromarray(images[row]), flagged=True))
        pairs.append(Cell(to_pil(training[nearest]), name=f"{COPY} {row}"))
    if pairs:
        sections.append(Section("copies, each with its training image beside it", pairs, 0))
    return _page(sections)


def data_sheet(
    training: Sequence[tuple[Tensor, str]], validation: Sequence[tuple[Tensor, str]]
) -> Image.Image:
    """The images of a dataset, each with its caption.

    Args:
        training, validation: pixels (3, H, W), 0 to 1, and the caption.
    """
    sections = []
    for title, images in (("training images", training), ("held out", validation)):
        displayed = [images[i] for i in range(0, len(images), -(-len(images) // MAX_IMAGES) or 1)]
        part = f"{len(displayed)} of " if len(displayed) < len(images) else ""
        if displayed:
            role = TRAINING if images is training else ""
            cells = [
                Cell(to_pil(pixels), caption, role and f"{role} {number}")
                for number, (pixels, caption) in enumerate(displayed)
            ]
            lines = max(len(wrap_text(cell.label, WIDTH, 5).splitlines()) for cell in cells)
            sections.append(Section(f"{part}{len(images)} {title}", cells, lines))
    return _page(sections)


def save_sheet(sheet: Image.Image, file: Path) -> None:
    """Writes a PNG atomically, with the positions of its named images in its metadata."""
    metadata, content = PngInfo(), BytesIO()
    metadata.add_text(CELLS, str(sheet.info.get(CELLS, "[]")))
    # half the time for a fifth more bytes
    sheet.save(content, "PNG", compress_level=1, pnginfo=metadata)
    write_atomically(file, content.getvalue())


def read_sheet(file: Path, names: Collection[str] | None = None) -> dict[str, Cell]:
    """The named images of a sheet that `save_sheet` wrote, by name, in their size on the sheet.

    Args:
        names: the images to read; None: all of them.

    Raises:
        UntrustedFileError: it is not such a sheet, or an image lies outside of it.
        OSError: the file is missing or cannot be read.
    """
    with _opened(file) as page:
        positions = _positions(page, file)
        requested = (
            positions if names is None else {n: positions[n] for n in names if n in positions}
        )
        displayed = _in_rgb(page) if requested or names is None else page
        cells = {}
        for name, position in requested.items():
            crop = displayed.crop((position.x, position.y, position.x + CELL, position.y + CELL))
            cells[name] = Cell(crop, position.label, name, position.flagged)
        return cells


def read_cells(file: Path, names: Collection[str] | None = None) -> dict[str, Cell]:
    """The named images of a sheet, see `read_sheet`; empty if it is missing or damaged."""
    try:
        return read_sheet(file, names)
    except (UntrustedFileError, OSError):
        return {}


def read_positions(file: Path) -> dict[str, CellPosition]:
    """Positions of the named images of a sheet, by name, without decoding it; empty if it is
    missing or not a sheet."""
    try:
        with _opened(file) as page:
            return _positions(page, file)
    except (UntrustedFileError, OSError):
        return {}


def read_png(file: Path) -> Image.Image:
    """A PNG that this program wrote, in RGB.

    Raises:
        UntrustedFileError: it is not a PNG, or it is too large.
        OSError: the file is missing or cannot be read.
    """
    with _opened(file) as image:
        return _in_rgb(image)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """A PNG of which only the header was read; the pixels can be read within the context.

    Raises:
        UntrustedFileError, OSError: see `read_png`.
    """
    name = shortened(file)
    with opened(file, MAX_BYTES) as stream:
        try:
            image = open_within_limits(stream, ["PNG"], MAX_CHUNKS)
            if image.width * image.height > MAX_PIXELS:
                raise UntrustedFileError(f"{name}: has over {MAX_PIXELS / 1e6:g} megapixels")
            yield image
        except UntrustedFileError:
            raise
        except Exception as error:  # Pillow raises many kinds for a damaged file
            raise UntrustedFileError(f"{name}: is not a readable PNG: {cause(error)}") from None


def _in_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _positions(page: Image.Image, file: Path) -> dict[str, CellPosition]:
    """The positions of the named images in the file's metadata.

    Raises:
        UntrustedFileError: the metadata are invalid.
    """
    name = shortened(file)
    positions = parse_json(str(page.info.get(CELLS, "[]")), list[CellPosition], name)
    if len(positions) > min(MAX_CELLS, page.width * page.height // CELL**2):
        raise UntrustedFileError(f"{name}: names more images than it has room for")
    for position in positions:
        if position.x + CELL > page.width or position.y + CELL > page.height:
            raise UntrustedFileError(f"{name}: {position.name!r} is outside of it")
    return {position.name: position for position in positions}


def to_pil(pixels: Tensor) -> Image.Image:
    """(3, H, W), 0 to 1."""
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy())


def _page(sections: list[Section]) -> Image.Image:
    """The sections below each other; `info` holds the positions of the named cells."""
    width = GAP + COLUMNS * (CELL + GAP)
    page = Image.new("RGB", (width, sum(section.height for section in sections) + GAP), BACKGROUND)
    top, positions = 0, []
    for section in sections:
        positions += _draw(page, section, top)
        top += section.height
    page.info[CELLS] = json.dumps(positions)
    return page


def _draw(page: Image.Image, section: Section, top: int) -> list[tuple[str, str, bool, int, int]]:
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    draw.text((GAP, top + 8), wrap_text(section.title, 4 * WIDTH, 1), INK, font)
    positions = []
    for i, cell in enumerate(section.cells):
        x = GAP + i % COLUMNS * (CELL + GAP)
        y = top + HEADING + i // COLUMNS * (CELL + section.lines * LINE + GAP)
        page.paste(scaled(cell.image, CELL), (x, y))
        if cell.flagged:
            draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), outline=RED, width=3)
        if section.lines:
            page.paste(_label(cell.label[:MAX_LABEL_CHARACTERS], section.lines), (x, y + CELL + 2))
        if cell.name:
            positions.append((cell.name, cell.label[:MAX_LABEL_CHARACTERS], cell.flagged, x, y))
    return positions


@lru_cache(maxsize=2000)
def _label(text: str, lines: int) -> Image.Image:
    """The label of an image, cached: the probes are the same at every epoch."""
    label = Image.new("RGB", (CELL, lines * LINE), BACKGROUND)
    wrapped = wrap_text(text, WIDTH, lines)
    ImageDraw.Draw(label).multiline_text(
        (0, 0), wrapped, GRAY, ImageFont.load_default(12), spacing=2
    )
    return label


def wrap_text(text: str, width: int, lines: int) -> str:
    """Text wrapped to at most `lines` lines of `width` characters, without control characters."""
    spaced = printable(text[:MAX_LABEL_CHARACTERS], LINES)
    return "\n".join(textwrap.wrap(spaced, width, max_lines=lines, placeholder=" ..."))


def scaled(image: Image.Image, side: int) -> Image.Image:
    """The image as a square; without interpolation if its pixels become squares of whole pixels."""
    whole = side % image.width == 0
    method = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return image.resize((side, side), method)
