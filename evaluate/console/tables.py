"""Tables on the terminal that show text literally: no markup, no emoji codes."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from train.text.display import printable
from train.text.terminal import with_codes

MAX_CELL_CHARACTERS = 1000  # characters of a cell


class PlainConsole(Console):
    """A console that shows text literally, without markup, emoji codes or highlighting."""

    def __init__(self, stream: TextIO | None = None, width: int | None = None) -> None:
        """
        Args:
            stream: None: the standard output.
            width: in columns; None: that of the terminal.
        """
        super().__init__(
            file=with_codes(stream or sys.stdout),
            width=width,
            markup=False,
            emoji=False,
            highlight=False,
        )


class PlainTable(Table):
    """A table whose cells show text literally."""

    def __init__(self, title: str = "", **options: Any) -> None:
        """
        Args:
            title: above the table, left-aligned; empty: none.
            options: rich's.
        """
        title_text = literal_text(title, "table.title") if title else None
        super().__init__(title=title_text, title_justify="left", **options)

    def heading(self, text: str, right: bool = False, unbroken: bool = False) -> None:
        """Adds a column.

        Args:
            right: align its cells to the right.
            unbroken: truncate long cells instead of wrapping them.
        """
        self.add_column(
            literal_text(text),
            justify="right" if right else "left",
            no_wrap=unbroken,
        )

    def row(self, *cells: RenderableType) -> None:
        """Adds a row."""
        self.add_row(*(literal_text(cell) if isinstance(cell, str) else cell for cell in cells))


def literal_text(text: str, style: str = "", verbatim: str = "") -> Text:
    """Literal text in one style; text longer than MAX_CELL_CHARACTERS is truncated.

    Args:
        verbatim: see `train.text.display.printable`.
    """
    short = text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]}..."
    return Text(printable(short, verbatim), style)


def table_console(width: int) -> PlainConsole:
    """The console of the standard output.

    Args:
        width: in columns, if the output is not a terminal.
    """
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=width)
