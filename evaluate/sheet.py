"""Contact sheets: the probe images of a checkpoint, to be looked at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from evaluate.probing.probes import CAPTION, CLASS, FRESH, ProbeSet
from evaluate.scorecard import Scorecard

CELL, GAP, COLUMNS, HEADING, LINE = 160, 8, 6, 28, 14
PAPER, INK, GREY = (250, 250, 250), (20, 20, 20), (110, 110, 110)
TITLES = {
    FRESH: "asked for something new, and made",
    CLASS: "the class alone, without the trigger word",
    CAPTION: "training captions",
}


class Section(NamedTuple):
    """Pictures under one heading, each with a few words below it; `lines` of them at most."""

    title: str
    cells: Sequence[tuple[Image.Image, str]]
    lines: int

    @property
    def height(self) -> int:
        """In pixels."""
        rows = -(-len(self.cells) // COLUMNS)
        return HEADING + rows * (CELL + self.lines * LINE + GAP)


def contact_sheet(scorecard: Scorecard, probe_set: ProbeSet, training: Tensor) -> Image.Image:
    """A row of training pictures, then every probe image with what was asked for below it.

    Args:
        scorecard: with its images.
        training: (n, 3, H, W), 0 to 1.

    Raises:
        ValueError: a scorecard without images.
    """
    if scorecard.images is None:
        raise ValueError("a scorecard that was read back has no images")
    spread = torch.linspace(0, len(training) - 1, min(COLUMNS, len(training))).round().long()
    shown = [(picture.permute(1, 2, 0) * 255).byte().numpy() for picture in training[spread]]
    sections = [Section("training pictures", [(Image.fromarray(p), "") for p in shown], 0)]
    for role, title in TITLES.items():
        cells = []
        for row in probe_set.rows(role):
            probe = probe_set.probes[row]
            words = ", ".join(probe.asked.values()) or probe.prompt
            cells.append((Image.fromarray(scorecard.images[row]), words))
        if cells:
            sections.append(Section(f"{scorecard.label}: {title}", cells, 3))
    width = GAP + COLUMNS * (CELL + GAP)
    page = Image.new("RGB", (width, sum(section.height for section in sections) + GAP), PAPER)
    top = 0
    for section in sections:
        _draw(page, section, top)
        top += section.height
    return page


def _draw(page: Image.Image, section: Section, top: int) -> None:
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    draw.text((GAP, top + 8), section.title, INK, font)
    for i, (picture, words) in enumerate(section.cells):
        x = GAP + i % COLUMNS * (CELL + GAP)
        y = top + HEADING + i // COLUMNS * (CELL + section.lines * LINE + GAP)
        page.paste(_scaled(picture), (x, y))
        text = "\n".join(textwrap.wrap(words, 26)[: section.lines])
        draw.multiline_text((x, y + CELL + 2), text, GREY, font, spacing=2)


def _scaled(picture: Image.Image) -> Image.Image:
    """A picture in the size of a cell; tiny ones pixel by pixel, which files of any kind like."""
    tiny = picture.width * 2 <= CELL
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    return picture.resize((CELL, CELL), method)
