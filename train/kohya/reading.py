"""kohya's TOML files, as they are and as people copy them from web pages."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from train.config import ConfigError
from train.decoding import decoded
from train.kohya.repairs import WINDOWS_PATH, repair
from train.paths import expanded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1_000_000  # bytes; kohya's files have some thousands
LONG_KEY = re.compile(r"^[^=\n\"'#]{1000,}", re.MULTILINE)  # its levels would take hours to parse
LONGEST = 80  # characters of a line in a message
LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def read_toml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A TOML file's content, and what had to be repaired to read it, in words.

    As with kohya, the name may come without .toml, and a file whose name ends in .json is JSON.

    Raises:
        ConfigError: no such file, or no TOML even after the repairs.
    """
    text, encoding = _text(path)
    guessed = [f"read as {encoding}, for it is not UTF-8"] if encoding else []
    if path.suffix.lower() == ".json":
        return _json(path, text), guessed
    if LONG_KEY.search(text):
        raise ConfigError(f"{path}: is not TOML: a key of more than 1000 characters")
    try:
        if not WINDOWS_PATH.search(text):
            return tomllib.loads(text), guessed
    except (ValueError, RecursionError):
        pass
    repaired, repairs = repair(text)
    try:
        return tomllib.loads(repaired), guessed + repairs
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML: {_explained(error, repaired)}") from None


def _text(path: Path) -> tuple[str, str]:
    """A file's text with plain line ends; and its encoding, where that was guessed."""
    named = str(expanded(path))
    if not os.path.isfile(named) and os.path.isfile(f"{named}.toml"):
        named += ".toml"
    try:
        with open(named, "rb") as stream:
            data = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r}: cannot be read ({reason})") from None
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: more than {LARGEST} bytes are no config")
    try:
        text, encoding = decoded(data)
    except ValueError:
        raise ConfigError(f"{path}: is no text in UTF-8, UTF-16 or Windows-1252") from None
    return LINE_ENDS.sub("\n", text), encoding


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold settings")
    return content


def _explained(error: ValueError, text: str) -> str:
    """The message of a parser, and the line that it is about."""
    line, lines = re.search(r"line (\d+)", str(error)), text.split("\n")
    shown = lines[min(int(line[1]), len(lines)) - 1].strip() if line else ""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
    return f"{error}{shown and f': {shown}'}"
