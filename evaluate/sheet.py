"""Contact sheets: the probe images of a checkpoint, to be looked at."""

from __future__ import annotations

import textwrap

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from evaluate.probes import ProbeSet
from evaluate.scorecard import Scorecard

CELL, GAP, COLUMNS, LINES = 160, 8, 6, 3
PAPER, INK, GREY = (250, 250, 250), (20, 20, 20), (110, 110, 110)


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
    font = ImageFont.load_default(12)
    caption = LINES * 14 + GAP
    rows = -(-len(scorecard.images) // COLUMNS)
    width = GAP + COLUMNS * (CELL + GAP)
    top = 28 + CELL + 28
    page = Image.new("RGB", (width, top + rows * (CELL + caption) + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 8), "training pictures", INK, font)
    spread = torch.linspace(0, len(training) - 1, min(COLUMNS, len(training))).round().long()
    for i, picture in enumerate(training[spread]):
        pixels = (picture.permute(1, 2, 0) * 255).byte().numpy()
        page.paste(_enlarged(Image.fromarray(pixels)), (GAP + i * (CELL + GAP), 28))
    draw.text((GAP, top - 20), f"epoch {scorecard.epoch}: asked for, and made", INK, font)
    for i, pixels in enumerate(scorecard.images):
        x, y = GAP + i % COLUMNS * (CELL + GAP), top + i // COLUMNS * (CELL + caption)
        page.paste(_enlarged(Image.fromarray(pixels)), (x, y))
        asked = ", ".join(probe_set.probes[i].asked.values())
        text = "\n".join(textwrap.wrap(asked, 26)[:LINES])
        draw.multiline_text((x, y + CELL + 2), text, GREY, font, spacing=2)
    return page


def _enlarged(picture: Image.Image) -> Image.Image:
    return picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
