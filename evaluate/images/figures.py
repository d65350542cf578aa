"""Matplotlib figures whose texts come from outside: text is shown literally."""

from __future__ import annotations

import warnings
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, Formatter, FuncFormatter

from train.files.atomic_write import write_atomically
from train.text.display import printable

MAX_CHARACTERS = 200  # characters of a text in a figure


def save_png(figure: Figure, file: Path) -> None:
    """Draws a figure into a PNG file, atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    content = BytesIO()
    save_figure(figure, content, format="png")
    write_atomically(file, content.getvalue())


def save_figure(figure: Figure, target: BytesIO | StringIO, **options: Any) -> None:
    """Draws a figure with its texts shown literally. A figure can be drawn only once.

    Args:
        options: matplotlib's.
    """
    _escape_texts(figure)
    with warnings.catch_warnings():  # a glyph missing from the font, a text that does not fit
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(target, **options)


def _escape_texts(figure: Figure) -> None:
    """Escapes all texts: matplotlib would parse text between two dollar signs as a formula, and
    fail if it is none."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(_literal(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter | FuncFormatter):  # labels that were set
                axis.set_major_formatter(FuncFormatter(partial(_literal_label, formatter)))


def _literal_label(formatter: Formatter, value: float, position: int | None = None) -> str:
    return _literal(str(formatter(value, position)))


def _literal(text: str) -> str:
    short = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."
    return printable(short).replace("$", r"\$")
