"""Text from outside as text that can be shown: file names of any bytes, text with control codes."""

from __future__ import annotations

import os
import re
import sys

UTF8_MODE = "PYTHONUTF8"  # the environment variable that turns Python's UTF-8 mode on
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Characters that a terminal or a browser obeys instead of showing them: controls (and with them
# ANSI codes), the format characters of Unicode (those of the direction of writing, tags, invisible
# ones), separators of lines, lone surrogates. U+200C and U+200D are not among them: they join the
# letters of several scripts, and the parts of emoji.
COMMANDS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
    r"\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)
LINES = "\n\t"  # what lays out a text of several lines
LONGEST = 240  # characters of a path that a message shows


def printable(text: str, kept: str = "") -> str:
    """Any text as one that is safe to show: what would be obeyed is escaped (`\\x1b`, `\\u202e`).

    Text of our own and ordinary text of any language comes out as it is, so that nothing is
    changed by doing it twice.

    Args:
        kept: characters that stay, such as LINES.
    """
    if text.isprintable():  # nearly always, and far quicker to know
        return text
    return COMMANDS.sub(lambda found: found[0] if found[0] in kept else _escape(found[0]), text)


def readable(name: str) -> str:
    """A file name or a path as text that can be printed, logged and stored anywhere.

    File names are bytes, which Python decodes by the encoding of the locale; bytes that it cannot
    decode become surrogates, which no file and no terminal takes. Here names are read as UTF-8
    whatever the locale is; other bytes and control characters are shown escaped (`J\\xfcrgen`).
    """
    return CONTROL.sub(lambda found: _escape(found[0]), _decoded(name))


def worded(name: str) -> str:
    """A name as words of a caption or a prompt: bytes that are no UTF-8 are read as Windows-1252,
    as those of caption files are."""
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
    """A path for a message: readable, and cut in the middle where it is endless."""
    text = readable(str(path))
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]}"


def start_in_utf8() -> None:
    """Starts the process again in Python's UTF-8 mode where the locale has another encoding.

    In such a locale (LC_ALL=C without Python's coercion, Latin-1) file names and arguments arrive
    as surrogates or as wrong letters, and the encoding cannot be changed later. To be called first
    of all, by a command alone; the processes that it starts inherit the mode.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    if os.environ.get(UTF8_MODE) != "1":  # once: -E and -X utf8=0 would not heed it
        os.environ[UTF8_MODE] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def storable(text: str) -> str:
    """A text as a file or a database can hold it: surrogates escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _decoded(name: str) -> str:
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:  # the text is no file name of this locale
        return storable(name)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        escaped = raw.decode("utf-8", "backslashreplace")
        return escaped if any("\ud800" <= character <= "\udfff" for character in name) else name
