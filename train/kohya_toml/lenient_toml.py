"""Reads kohya's TOML files, including text that was copied from web pages."""

from __future__ import annotations

import re
from pathlib import Path

from train.errors import ConfigError
from train.files.paths import expanded
from train.files.untrusted import Tree, UntrustedFileError, parse_json, parse_toml, read_bytes
from train.kohya_toml.repairs import WINDOWS_PATH, repair
from train.text.decoding import decode_text
from train.text.display import shortened

MAX_BYTES = 1_000_000  # bytes; kohya's files have some thousands
MAX_LINE_CHARACTERS = 80  # characters of a line in a message
LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def read_toml(path: Path) -> tuple[Tree, list[str]]:
    """The content of a TOML file, and the repairs that were needed to read it, in words.

    As in kohya, the name may lack .toml, and a file whose name ends in .json is JSON.

    Raises:
        ConfigError: no such file, or invalid TOML even after the repairs.
    """
    text, encoding = _text(path)
    guessed = [f"read as {encoding}, as it is not UTF-8"] if encoding else []
    name = shortened(path)
    if path.suffix.lower() == ".json":
        try:
            return parse_json(text, Tree, name), guessed
        except UntrustedFileError as error:
            raise ConfigError(str(error)) from None
    try:
        if not WINDOWS_PATH.search(text):
            return parse_toml(text, Tree, name), guessed
    except UntrustedFileError:
        pass
    repaired, repairs = repair(text)
    try:
        return parse_toml(repaired, Tree, name), guessed + repairs
    except UntrustedFileError as error:
        raise ConfigError(_with_line(error, repaired)) from None


def existing_file(path: Path) -> Path:
    """The file of a name: itself, or with .toml appended, as in kohya."""
    file = expanded(path)
    suffixed = file.with_name(f"{file.name}.toml") if file.name else file
    try:
        return suffixed if not file.is_file() and suffixed.is_file() else file
    except (OSError, ValueError):  # reported when it is read
        return file


def _text(path: Path) -> tuple[str, str]:
    """A file's text with normalized line ends; and its encoding, if that was guessed."""
    try:
        data = read_bytes(existing_file(path), MAX_BYTES)
    except UntrustedFileError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shortened(path)!r}: cannot be read ({reason})") from None
    try:
        text, encoding = decode_text(data)
    except ValueError:
        raise ConfigError(
            f"{shortened(path)}: is not text in UTF-8, UTF-16 or Windows-1252"
        ) from None
    return LINE_ENDS.sub("\n", text), encoding


def _with_line(error: UntrustedFileError, text: str) -> str:
    """A parser's message, with the line that it refers to."""
    line, lines = re.search(r"line (\d+)", str(error)), text.split("\n")
    excerpt = lines[min(int(line[1]), len(lines)) - 1].strip() if line else ""
    excerpt = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in excerpt)
    if len(excerpt) > MAX_LINE_CHARACTERS:
        excerpt = f"{excerpt[:MAX_LINE_CHARACTERS]}..."
    return f"{error}: {excerpt}" if excerpt else str(error)
