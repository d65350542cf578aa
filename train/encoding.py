"""Text from the system: file names that can be shown anywhere, streams that take any text."""

from __future__ import annotations

import io
import os
import re
import sys

UTF8_MODE = "PYTHONUTF8"  # the environment variable that turns Python's UTF-8 mode on
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LONGEST = 240  # characters of a path that a message shows


def readable(name: str) -> str:
    """A file name or a path as text that can be printed, logged and stored anywhere.

    File names are bytes, which Python decodes by the encoding of the locale; bytes that it cannot
    decode become surrogates, which no file and no terminal takes. Here names are read as UTF-8
    whatever the locale is; other bytes and control characters are shown escaped (`J\\xfcrgen`).
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), _decoded(name))


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


def escape_in_streams() -> None:
    """Lets no character stop a print: those that the terminal's encoding lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def storable(text: str) -> str:
    """A text as a file or a database can hold it: surrogates escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


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
