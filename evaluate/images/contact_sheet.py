"""Contact sheets: the probe images of a checkpoint, and the pictures of a data set, to look at."""

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
from train.data.images.limits import checked
from train.files.atomic_write import write_atomically
from train.files.untrusted import UntrustedFileError, opened, parse_json
from train.text.display import LINES, printable
from train.text.display import shortened as shortened_path

if TYPE_CHECKING:
    from torch import Tensor

    from evaluate.prompts.probe_set import ProbeSet

CELL, GAP, COLUMNS, HEADING, LINE = 160, 8, 6, 28, 14
PAPER, INK, GREY, ALARM = (250, 250, 250), (20, 20, 20), (110, 110, 110), (201, 42, 42)
CELLS = "cells"  # what a sheet's file says of where its pictures are
DATA_SHEET = "data.png"  # in a study's folder
TRAINING = "training"  # the role of a training picture on a data sheet
# of a sheet: its width times the rows of 4096 probes, the most of probes.count; its named pictures;
# bytes and chunks of its file, of which Pillow writes one for each 64 kB
MOST_PIXELS, MOST_CELLS, LARGEST, MOST_CHUNKS = 150_000_000, 5000, 250_000_000, 5000
COPY = "copy"  # the role of a training picture that stands beside its copy
MOST, WIDTH = 120, 26  # pictures on a data sheet; letters in a line below one
LONGEST = 2000  # letters of what is said of a picture; a caption may be a book
TITLES = {
    FRESH: "asked for something new, and made",
    CLASS: "the class alone, without the trigger word",
    CAPTION: "training captions",
}


class Place(NamedTuple):
    """Where a named picture is on a sheet, as its file says: its upper left corner, in pixels."""

    name: Annotated[str, Meta(max_length=100)]
    words: Annotated[str, Meta(max_length=20_000)]
    alarming: bool
    x: Annotated[int, Meta(ge=0, le=MOST_PIXELS)]
    y: Annotated[int, Meta(ge=0, le=MOST_PIXELS)]


class Cell(NamedTuple):
    """A picture, a few words below it, what it is (a role and a number), framed where it alarms."""

    picture: Image.Image
    words: str = ""
    name: str = ""
    alarming: bool = False


class Section(NamedTuple):
    """Cells under one heading, with at most `lines` lines of words each."""

    title: str
    cells: Sequence[Cell]
    lines: int

    @property
    def height(self) -> int:
        """In pixels."""
        rows = -(-len(self.cells) // COLUMNS)
        return HEADING + rows * (CELL + self.lines * LINE + GAP)


def contact_sheet(scorecard: Scorecard, probe_set: ProbeSet, training: Tensor) -> Image.Image:
    """Training pictures, every probe image with what was asked for below it, and the copies.

    A copy has a red frame, and stands once more at the end beside the training picture.

    Args:
        scorecard: with its images.
        training: (n, 3, H, W), 0 to 1.

    Raises:
        ValueError: a scorecard without images.
    """
    if scorecard.images is None:
        raise ValueError("a scorecard that was read back has no images")
    made, copies = scorecard.images, scorecard.copies
    spread = np.linspace(0, len(training) - 1, min(COLUMNS, len(training))).round().astype(int)
    sections = [Section("training pictures", [Cell(picture_of(p)) for p in training[spread]], 0)]
    for role, title in TITLES.items():
        cells = []
        for row in probe_set.rows(role):
            probe = probe_set.probes[row]
            words = ", ".join(probe.asked.values()) or probe.prompt
            name = f"{role} {row}"
            cells.append(Cell(Image.fromarray(made[row]), words, name, row in copies))
        if cells:
            sections.append(Section(f"{scorecard.label}: {title}", cells, 3))
    pairs = []
    for row, nearest in copies.items():
        pairs.append(Cell(Image.fromarray(made[row]), alarming=True))
        pairs.append(Cell(picture_of(training[nearest]), name=f"{COPY} {row}"))
    if pairs:
        sections.append(Section("copies, each with its training picture beside it", pairs, 0))
    return _page(sections)


def data_sheet(
    training: Sequence[tuple[Tensor, str]], validation: Sequence[tuple[Tensor, str]]
) -> Image.Image:
    """The pictures of a data set, each with its caption.

    Args:
        training, validation: pixels (3, H, W), 0 to 1, and the caption.
    """
    sections = []
    for title, pictures in (("training pictures", training), ("held out", validation)):
        shown = [pictures[i] for i in range(0, len(pictures), -(-len(pictures) // MOST) or 1)]
        some = f"{len(shown)} of " if len(shown) < len(pictures) else ""
        if shown:
            role = TRAINING if pictures is training else ""
            cells = [
                Cell(picture_of(pixels), caption, role and f"{role} {number}")
                for number, (pixels, caption) in enumerate(shown)
            ]
            lines = max(len(shortened(cell.words, WIDTH, 5).splitlines()) for cell in cells)
            sections.append(Section(f"{some}{len(pictures)} {title}", cells, lines))
    return _page(sections)


def save_sheet(sheet: Image.Image, file: Path) -> None:
    """Writes a PNG that knows where its pictures are, in one piece."""
    about, content = PngInfo(), BytesIO()
    about.add_text(CELLS, str(sheet.info.get(CELLS, "[]")))
    # in half the time, a fifth more bytes
    sheet.save(content, "PNG", compress_level=1, pnginfo=about)
    write_atomically(file, content.getvalue())


def read_sheet(file: Path, names: Collection[str] | None = None) -> dict[str, Cell]:
    """The named pictures of a sheet that `save_sheet` wrote, by name, as large as there.

    Args:
        names: of those that are wanted; None: all of them.

    Raises:
        UntrustedFileError: it is no such sheet, or a picture is outside of it.
        OSError: it is not there, or may not be read.
    """
    with _opened(file) as page:
        places = _places(page, file)
        wanted = places if names is None else {n: places[n] for n in names if n in places}
        shown = _in_rgb(page) if wanted or names is None else page
        cells = {}
        for name, place in wanted.items():
            cut = shown.crop((place.x, place.y, place.x + CELL, place.y + CELL))
            cells[name] = Cell(cut, place.words, name, place.alarming)
        return cells


def cells_of(file: Path, names: Collection[str] | None = None) -> dict[str, Cell]:
    """The named pictures of a sheet, see `read_sheet`; none where it is gone or damaged."""
    try:
        return read_sheet(file, names)
    except (UntrustedFileError, OSError):
        return {}


def places_of(file: Path) -> dict[str, Place]:
    """Where the named pictures of a sheet are, by name, without a look at them; none where it is
    gone or no sheet."""
    try:
        with _opened(file) as page:
            return _places(page, file)
    except (UntrustedFileError, OSError):
        return {}


def read_png(file: Path) -> Image.Image:
    """A PNG of this program, in RGB.

    Raises:
        UntrustedFileError: it is none, or too large.
        OSError: it is not there, or may not be read.
    """
    with _opened(file) as picture:
        return _in_rgb(picture)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """A PNG of which only the header was read; its pixels can be read as long as it is open.

    Raises:
        UntrustedFileError, OSError: see `read_png`.
    """
    name = shortened_path(file)
    with opened(file, LARGEST) as stream:
        try:
            picture = checked(stream, ["PNG"], MOST_CHUNKS)
            if picture.width * picture.height > MOST_PIXELS:
                raise UntrustedFileError(f"{name}: has over {MOST_PIXELS / 1e6:g} megapixels")
            yield picture
        except UntrustedFileError:
            raise
        except Exception as error:  # Pillow has many for a damaged file
            raise UntrustedFileError(
                f"{name}: is no PNG that can be read: {cause(error)}"
            ) from None


def _in_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _places(page: Image.Image, file: Path) -> dict[str, Place]:
    """Where its file says that a sheet's pictures are.

    Raises:
        UntrustedFileError: it says nothing of the kind, or what cannot be.
    """
    name = shortened_path(file)
    places = parse_json(str(page.info.get(CELLS, "[]")), list[Place], name)
    if len(places) > min(MOST_CELLS, page.width * page.height // CELL**2):
        raise UntrustedFileError(f"{name}: names more pictures than it has room for")
    for place in places:
        if place.x + CELL > page.width or place.y + CELL > page.height:
            raise UntrustedFileError(f"{name}: {place.name!r} is outside of it")
    return {place.name: place for place in places}


def picture_of(pixels: Tensor) -> Image.Image:
    """(3, H, W), 0 to 1."""
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy())


def _page(sections: list[Section]) -> Image.Image:
    """The sections below each other; `info` says where the named cells are."""
    width = GAP + COLUMNS * (CELL + GAP)
    page = Image.new("RGB", (width, sum(section.height for section in sections) + GAP), PAPER)
    top, known = 0, []
    for section in sections:
        known += _draw(page, section, top)
        top += section.height
    page.info[CELLS] = json.dumps(known)
    return page


def _draw(page: Image.Image, section: Section, top: int) -> list[tuple[str, str, bool, int, int]]:
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    draw.text((GAP, top + 8), shortened(section.title, 4 * WIDTH, 1), INK, font)
    known = []
    for i, cell in enumerate(section.cells):
        x = GAP + i % COLUMNS * (CELL + GAP)
        y = top + HEADING + i // COLUMNS * (CELL + section.lines * LINE + GAP)
        page.paste(scaled(cell.picture, CELL), (x, y))
        if cell.alarming:
            draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), outline=ALARM, width=3)
        if section.lines:
            page.paste(_words(cell.words[:LONGEST], section.lines), (x, y + CELL + 2))
        if cell.name:
            known.append((cell.name, cell.words[:LONGEST], cell.alarming, x, y))
    return known


@lru_cache(maxsize=2000)
def _words(words: str, lines: int) -> Image.Image:
    """What stands below a picture, drawn once: the probes are the same at every epoch."""
    label = Image.new("RGB", (CELL, lines * LINE), PAPER)
    text = shortened(words, WIDTH, lines)
    ImageDraw.Draw(label).multiline_text((0, 0), text, GREY, ImageFont.load_default(12), spacing=2)
    return label


def shortened(words: str, width: int, lines: int) -> str:
    """Words in at most so many lines of so many letters; those of any caption can be drawn."""
    spaced = printable(words[:LONGEST], LINES)
    return "\n".join(textwrap.wrap(spaced, width, max_lines=lines, placeholder=" ..."))


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """A picture as a square; a tiny one pixel by pixel, which files of any kind like."""
    tiny = picture.width * 2 <= side
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    return picture.resize((side, side), method)
