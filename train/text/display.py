"""Makes text from outside displayable: file names of any bytes, text with control codes."""

from __future__ import annotations

import os
import re
import sys

UTF8_MODE = "PYTHONUTF8"  # the environment variable that enables Python's UTF-8 mode
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Characters that a terminal or a browser interprets instead of showing them: controls (and with
# them ANSI codes), Unicode's format characters (text direction, tags, invisible ones), line
# separators, lone surrogates. U+200C and U+200D are not included: they join letters of several
# scripts, and the parts of emoji.
COMMANDS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
    r"\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)
LINES = "\n\t"  # the layout of a text with several lines
MAX_PATH_CHARACTERS = 240  # characters of a path in a message


def printable(text: str, verbatim: str = "") -> str:
    """Escapes characters that would be interpreted (`\\x1b`, `\\u202e`).

    Our own text and ordinary text in any language is unchanged, and doing it twice is harmless.

    Args:
        verbatim: characters that are not escaped, such as LINES.
    """
    if text.isprintable():  # nearly always, and much faster to check
        return text
    return COMMANDS.sub(lambda match: match[0] if match[0] in verbatim else _escape(match[0]), text)


def readable(name: str) -> str:
    """A file name or a path as text that can be printed, logged and stored anywhere.

    File names are bytes, which Python decodes by the encoding of the locale; bytes that it cannot
    decode become surrogates, which no file and no terminal accepts. Here names are decoded as UTF-8
    in any locale; other bytes and control characters are escaped (`J\\xfcrgen`).
    """
    return CONTROL.sub(lambda match: _escape(match[0]), _decoded(name))


def name_as_words(name: str) -> str:
    """A name as words of a caption or a prompt: bytes that are not UTF-8 are decoded as
    Windows-1252, as in caption files."""
    try:
        raw = os.fsencode(name)
        raw.decode()
    except UnicodeEncodeError:
        return readable(name)
    except UnicodeDecodeError:
        try:
            return readable(raw.decode("cp1252"))
        except UnicodeDecodeError:
            return readable(name)
    return readable(name)


def shortened(path: object) -> str:
    """A path for a message: readable, with the middle of a long one cut."""
    text = readable(str(path))
    half = MAX_PATH_CHARACTERS // 2
    return text if len(text) <= MAX_PATH_CHARACTERS else f"{text[:half]}...{text[-half:]}"


def start_in_utf8() -> None:
    """Restarts the process in Python's UTF-8 mode if the locale has another encoding.

    In such a locale (LC_ALL=C without Python's coercion, Latin-1) file names and arguments arrive
    as surrogates or as wrong characters, and the encoding cannot be changed later. To be called
    first, by commands only; the processes that they start inherit the mode.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if os.environ.get(UTF8_MODE) != "1":  # only once: -E and -X utf8=0 ignore the variable
        os.environ[UTF8_MODE] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def storable(text: str) -> str:
    """A text that a file or a database can hold: surrogates are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _decoded(name: str) -> str:
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:  # the text is not a file name of this locale
        return storable(name)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        escaped = raw.decode("utf-8", "backslashreplace")
        return escaped if any("\ud800" <= character <= "\udfff" for character in name) else name
