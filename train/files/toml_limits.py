"""Limits on a TOML text that are checked before it is parsed.

Python's parser takes time that grows with the square of the length of a dotted key, and it
recurses once for each nested list or table.
"""

from __future__ import annotations

import re

DEEPEST = 50  # lists and inline tables inside of each other
MOST_PARTS = 30  # of a dotted key
# What is no structure: strings and comments. A string that is not closed goes to the end of its
# line, or of the text, since the parser stops there. No alternative fails once it has begun, even
# where the text ends in a backslash: else each of its strings would be looked through to the end.
NO_STRUCTURE = re.compile(
    r"""\"\"\"(?:\\.?|[^\\])*?(?:\"{3,5}|\Z)|'''.*?(?:'{3,5}|\Z)"""
    r"""|"(?:\\[^\n]|[^"\\\n])*["\\]?|'[^'\n]*'?|\#[^\n]*""",
    re.DOTALL,
)
BRACKETS = re.compile(r"[\[\]{}]")


def excess(text: str) -> str:
    """What a TOML text has too much of, in words; empty where it is within the limits."""
    bare = NO_STRUCTURE.sub(_masked, text)
    depth = 0
    for found in BRACKETS.finditer(bare):
        depth = depth + 1 if found[0] in "[{" else max(0, depth - 1)
        if depth > DEEPEST:
            return "is nested too deeply"
    keys = re.sub(r"[^\s.=,{}\[\]#]+", "k", re.sub(r"[ \t]+", "", bare))
    if "k." * MOST_PARTS in keys:
        return f"has a key of more than {MOST_PARTS} parts"
    return ""


def _masked(found: re.Match[str]) -> str:
    """A string as a word, since it may be a part of a key; a comment as nothing."""
    return "" if found[0].startswith("#") else "k"
