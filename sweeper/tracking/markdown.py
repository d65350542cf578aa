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
    escaped = html.escape(printable(_truncate(text)), quote=False)
    return SPECIAL.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", escaped)


def markdown_code(text: str) -> str:
    """A text, in one line, as inline code."""
    code = printable(_truncate(text))
    longest = max(map(len, re.findall("`+", code)), default=0)
    space = " " if code.startswith("`") or code.endswith("`") else ""
    return f"{'`' * (longest + 1)}{space}{code}{space}{'`' * (longest + 1)}"


def markdown_row(cells: list[str]) -> str:
    """A row of a table whose cells are rendered literally."""
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."
