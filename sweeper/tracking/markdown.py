"""Escapes text for Markdown, which MLflow renders as a description."""

from __future__ import annotations

import html
import re

from train.text.display import printable

# what Markdown, its tables or HTML interpret; underscores within words are not special
SPECIAL = re.compile(
    r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])|(?<=http)s?:|(?<=ftp):|(?<=www)\.", re.IGNORECASE
)
MAX_LENGTH = 2000  # characters; longer texts are truncated


def escape_markdown(text: str) -> str:
    """A text, in one line, that Markdown renders literally."""
    shown = html.escape(printable(_truncate(text)), quote=False)
    return SPECIAL.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", shown)


def markdown_code(text: str) -> str:
    """A text, in one line, as inline code."""
    shown = printable(_truncate(text))
    longest = max(map(len, re.findall("`+", shown)), default=0)
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{'`' * (longest + 1)}{space}{shown}{space}{'`' * (longest + 1)}"


def markdown_row(cells: list[str]) -> str:
    """A row of a table whose cells are rendered literally."""
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."
