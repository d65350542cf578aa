"""Text as a part of a page of Markdown, which MLflow shows as a description."""

from __future__ import annotations

import html
import re

from train.text.display import printable

# what Markdown, its tables or HTML read as more than a letter; underscores within words are none
SPECIAL = re.compile(
    r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])|(?<=http)s?:|(?<=ftp):|(?<=www)\.", re.IGNORECASE
)
LONGEST = 2000  # characters of a text


def in_markdown(text: str) -> str:
    """A text in one line that is shown as it is."""
    shown = html.escape(printable(_cut(text)), quote=False)
    return SPECIAL.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", shown)


def code_in_markdown(text: str) -> str:
    """A text in one line, in the letters of code."""
    shown = printable(_cut(text))
    longest = max(map(len, re.findall("`+", shown)), default=0)
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{'`' * (longest + 1)}{space}{shown}{space}{'`' * (longest + 1)}"


def row_in_markdown(cells: list[str]) -> str:
    """A row of a table, of texts that are shown as they are."""
    return f"| {' | '.join(map(in_markdown, cells))} |"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
