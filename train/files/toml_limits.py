"""Limits on a TOML text that are checked before it is parsed.

Python's parser takes time that grows with the square of the length of a dotted key, and it
recurses for each nested list or table.
"""

from __future__ import annotations

import re

MAX_DEPTH = 50  # levels of nested lists and inline tables
MAX_KEY_PARTS = 30  # of a dotted key
# Strings and comments, which have no structure. An unclosed string extends to the end of its line,
# or of the text, since the parser stops there. No alternative fails once it has begun, even if the
# text ends in a backslash: otherwise each string would be scanned to the end.
NO_STRUCTURE = re.compile(
    r"""\"\"\"(?:\\.?|[^\\])*?(?:\"{3,5}|\Z)|'''.*?(?:'{3,5}|\Z)"""
    r"""|"(?:\\[^\n]|[^"\\\n])*["\\]?|'[^'\n]*'?|\#[^\n]*""",
    re.DOTALL,
)
BRACKETS = re.compile(r"[\[\]{}]")


def toml_excess(text: str) -> str:
    """Why a TOML text exceeds the limits, in words; empty if it does not."""
    masked = NO_STRUCTURE.sub(_masked, text)
    depth = 0
    for bracket in BRACKETS.finditer(masked):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        if depth > MAX_DEPTH:
            return "is nested too deeply"
    keys = re.sub(r"[^\s.=,{}\[\]#]+", "k", re.sub(r"[ \t]+", "", masked))
    if "k." * MAX_KEY_PARTS in keys:
        return f"has a key of more than {MAX_KEY_PARTS} parts"
    return ""


def _masked(match: re.Match[str]) -> str:
    """A word for a string, which may be part of a key; nothing for a comment."""
    return "" if match[0].startswith("#") else "k"
