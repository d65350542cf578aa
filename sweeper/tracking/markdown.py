"""Text as a part of a page of Markdown, which MLflow shows as a description."""

from __future__ import annotations

import html
import re

from train.text.display import printable

# what Markdown, its tables or HTML read as more than a letter; underscores within words are none
SPECIAL = re.compile(
    r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])|(?<=http)s?:|(?<=ftp):|(?<=www)\.", re.IGNORECASE
)
MAX_LENGTH = 2000  # characters of a text


def escape_markdown(text: str) -> str:
    """A text in one line that is shown as it is."""
    shown = html.escape(printable(_truncate(text)), quote=False)
    return SPECIAL.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", shown)


def markdown_code(text: str) -> str:
    """A text in one line, in the letters of code."""
    shown = printable(_truncate(text))
    longest = max(map(len, re.findall("`+", shown)), default=0)
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{'`' * (longest + 1)}{space}{shown}{space}{'`' * (longest + 1)}"


def markdown_row(cells: list[str]) -> str:
    """A row of a table, of texts that are shown as they are."""
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."
