"""The epochs of a run in one image: probes across, epochs down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from evaluate.images.contact_sheet import (
    BACKGROUND,
    COPY,
    GRAY,
    INK,
    RED,
    Cell,
    read_positions,
    scaled,
    wrap_text,
)
from evaluate.images.probe_images import probe_cells
from evaluate.prompts.roles import FRESH

SIDE, COPY_SIDE, GAP, LEFT, TOP = 112, 64, 6, 72, 64
MAX_COLUMNS = 10  # probes


def epoch_grid(
    sheets: Mapping[int, Path], selected: int | None, unit: str = "epoch"
) -> Image.Image:
    """One column for each fresh probe, copied ones first, and one row for each contact sheet.

    A copy has a red frame, and its training image next to it.

    Args:
        sheets: epoch -> its contact sheet; 0: that of the base alone. A sheet that is missing or
            damaged is left out.
        selected: the selected epoch, which is marked.
    """
    positions = {epoch: cells for epoch, file in sheets.items() if (cells := read_positions(file))}
    first = next(iter(positions.values()), {})
    names = [name for name in first if name.startswith(f"{FRESH} ")]
    copied = {n for n in names if any(row[n].flagged for row in positions.values() if n in row)}
    not_copied = [name for name in names if name not in copied]
    columns = sorted(copied)[:MAX_COLUMNS]
    room = min(MAX_COLUMNS - len(columns), len(not_copied))
    # spread over all of them
    columns += [not_copied[i * len(not_copied) // room] for i in range(room)]
    requested = [*columns, *(name.replace(FRESH, COPY) for name in columns)]
    cells_by_epoch = {epoch: probe_cells(sheets[epoch], requested) for epoch in positions}
    rows = {epoch: cells for epoch, cells in cells_by_epoch.items() if cells or not columns}
    widths = [SIDE + GAP + (COPY_SIDE + GAP) * (name in copied) for name in columns]
    height = TOP + len(rows) * (SIDE + GAP)
    page = Image.new("RGB", (LEFT + sum(widths) + GAP, height), BACKGROUND)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for y, epoch in enumerate(rows):
        text = wrap_text(f"{unit} {epoch}", 16, 1) if epoch else "base model"
        text += "\nkept" if epoch == selected else ""
        color = INK if epoch == selected else GRAY
        draw.multiline_text((GAP, TOP + y * (SIDE + GAP) + SIDE // 2 - 8), text, color, font)
    x = LEFT
    for name, width in zip(columns, widths, strict=True):
        draw.multiline_text((x, 4), wrap_text(first[name].label, 17, 4), GRAY, font, spacing=1)
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
    if cell.flagged and copied:
        page.paste(scaled(copied.image, COPY_SIDE), (x + SIDE + GAP, y + SIDE - COPY_SIDE))
        box = (x - 2, y - 2, x + SIDE + 1, y + SIDE + 1)
        ImageDraw.Draw(page).rectangle(box, outline=RED, width=3)
