"""The epochs of a run in one image: probes across, epochs down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from evaluate.images.contact_sheet import (
    ALARM,
    COPY,
    GRAY,
    INK,
    PAPER,
    Cell,
    places_of,
    scaled,
    shortened,
)
from evaluate.images.probe_images import probe_cells
from evaluate.prompts.roles import FRESH

SIDE, BESIDE, GAP, LEFT, TOP = 112, 64, 6, 72, 64
ACROSS = 10  # probes


def epoch_grid(sheets: Mapping[int, Path], kept: int | None, unit: str = "epoch") -> Image.Image:
    """One column for each fresh probe, copied ones first, and one row for each contact sheet.

    A copy has a red frame, and its training image next to it.

    Args:
        sheets: epoch -> its contact sheet; 0: that of the base alone. A sheet that is missing or
            damaged is left out.
        kept: the selected epoch, which is marked.
    """
    places = {epoch: cells for epoch, file in sheets.items() if (cells := places_of(file))}
    first = next(iter(places.values()), {})
    names = [name for name in first if name.startswith(f"{FRESH} ")]
    copied = {n for n in names if any(row[n].alarming for row in places.values() if n in row)}
    others = [name for name in names if name not in copied]
    shown = sorted(copied)[:ACROSS]
    room = min(ACROSS - len(shown), len(others))
    shown += [others[i * len(others) // room] for i in range(room)]  # spread over all of them
    wanted = [*shown, *(name.replace(FRESH, COPY) for name in shown)]
    cells_by_epoch = {epoch: probe_cells(sheets[epoch], wanted) for epoch in places}
    rows = {epoch: cells for epoch, cells in cells_by_epoch.items() if cells or not shown}
    widths = [SIDE + GAP + (BESIDE + GAP) * (name in copied) for name in shown]
    height = TOP + len(rows) * (SIDE + GAP)
    page = Image.new("RGB", (LEFT + sum(widths) + GAP, height), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for y, epoch in enumerate(rows):
        text = shortened(f"{unit} {epoch}", 16, 1) if epoch else "base model"
        text += "\nkept" if epoch == kept else ""
        color = INK if epoch == kept else GRAY
        draw.multiline_text((GAP, TOP + y * (SIDE + GAP) + SIDE // 2 - 8), text, color, font)
    x = LEFT
    for name, width in zip(shown, widths, strict=True):
        draw.multiline_text((x, 4), shortened(first[name].words, 17, 4), GRAY, font, spacing=1)
        for y, row in enumerate(rows.values()):
            _draw(page, (x, TOP + y * (SIDE + GAP)), row, name)
        x += width
    return page


def _draw(page: Image.Image, at: tuple[int, int], row: dict[str, Cell], name: str) -> None:
    """Draws a probe's image; if it is a copy, with its training image."""
    if name not in row:
        return
    (x, y), cell = at, row[name]
    page.paste(scaled(cell.image, SIDE), at)
    copied = row.get(name.replace(FRESH, COPY))
    if cell.alarming and copied:
        page.paste(scaled(copied.image, BESIDE), (x + SIDE + GAP, y + SIDE - BESIDE))
        box = (x - 2, y - 2, x + SIDE + 1, y + SIDE + 1)
        ImageDraw.Draw(page).rectangle(box, outline=ALARM, width=3)
