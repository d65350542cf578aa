"""kohya's TOML files, as they are and as people copy them from web pages."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from train.config import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOUBLE, SINGLE, DASHES = "“”„‟″＂", "‘’‚‛′", "‐‑‒–—―−"
PLAIN = str.maketrans({**dict.fromkeys(DASHES, "-"), "\u00a0": " ", "\u202f": " ", "＝": "="})
BAD_ESCAPE = re.compile(r'\\(?![btnfr"\\]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})')
# the parts of a TOML text that are to be told apart; a string of straight quotes comes first, so
# that what is written right stays as it is
PARTS = re.compile(
    rf"""(?P<long>\"\"\".*?\"\"\"|'''.*?''')
    |(?P<comment>\#[^\n]*)
    |(?P<basic>"(?:[^"\\\n]|\\.)*")
    |(?P<literal>'[^'\n]*')
    |["{DOUBLE}](?P<double>[^"{DOUBLE}\n]*)["{DOUBLE}]
    |['{SINGLE}](?P<single>[^'{SINGLE}\n]*)['{SINGLE}]
    |(?P<bool>\b(?:True|False)\b)
    |(?P<odd>[{DASHES}\u00a0\u202f＝\u200b\ufeff])""",
    re.VERBOSE | re.DOTALL,
)
NEXT_PAIR = re.compile(
    r"[ \t]*[,;]?[ \t]+(?=[A-Za-z_][\w.-]*[ \t]*=(?!=)|\[{1,2}[A-Za-z_][\w. -]*\]{1,2}(?:\s|$))"
)


def read_toml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A TOML file's content, and what had to be repaired to read it, in words.

    Raises:
        ConfigError: no such file, or no TOML even after the repairs.
    """
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError:
        repaired, repairs = repair(text)
    try:
        return tomllib.loads(repaired), repairs
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        lines = repaired.splitlines()
        place = min(int(line[1]), len(lines)) if line and lines else 0
        shown = f": {lines[place - 1].strip()}" if place else ""
        raise ConfigError(f"{path}: is not TOML: {error}{shown}") from None


def repair(text: str) -> tuple[str, list[str]]:
    """What copying from a web page has done to a TOML text, undone; and what that was."""
    found: dict[str, None] = {}

    def replaced(part: re.Match[str]) -> str:
        """One part of the text as it should be; what was wrong with it goes into `found`."""
        kind, whole = part.lastgroup, part.group()
        if kind in ("double", "single"):
            found["typographic quotes"] = None
            return _string(part[kind])
        if kind == "basic" and BAD_ESCAPE.search(whole):
            found["backslashes in double quotes"] = None
            return _string(whole[1:-1])
        if kind == "bool":
            found["True and False with a capital"] = None
            return whole.lower()
        if kind == "odd":
            found["typographic dashes and spaces"] = None
            return whole.translate(PLAIN).replace("\u200b", "").replace("\ufeff", "")
        return whole

    single = PARTS.sub(replaced, text)
    split = _one_pair_a_line(single)
    if split != single:
        found["several pairs on one line"] = None
    return split, list(found)


def _string(content: str) -> str:
    """A TOML string; a literal one where there are backslashes, as in the paths of Windows."""
    if "\\" in content and "'" not in content:
        return f"'{content}'"
    return '"' + content.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_pair_a_line(text: str) -> str:
    masked = PARTS.sub(lambda part: '"' * len(part.group()), text)  # no `=` in strings is a pair's
    pieces, start, depth, began = [], 0, 0, 0
    for position, character in enumerate(masked):
        depth += (character in "[{") - (character in "]}")
        if character == "\n":
            began = position + 1
            continue
        if depth or position == began or character not in " \t,;":
            continue
        match = NEXT_PAIR.match(masked, position)
        before = masked[began:position].strip()
        complete = "=" in before or before.startswith("[")
        if match and complete and before[-1] not in "=,;":
            pieces.append(text[start:position])
            start, began = match.end(), match.end()
    return "\n".join([*pieces, text[start:]])
