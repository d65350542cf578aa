"""Writes to the terminal so that no character of a name acts as a command.

Three kinds of text go through here: the log (`LineFormatter`), lines that a command prints
(`print_lines`) and its final error (`exit_with_error`). In addition, the streams themselves escape
what other libraries write, such as warnings and tracebacks (`escape_in_streams`).
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from typing import Any, NoReturn, TextIO, cast

from train.text.display import LINES, printable

BETWEEN_BARS = re.compile(r"(?:\n|\x1b\[A)+")  # tqdm's moves between progress bars
MAX_CHARACTERS = 2000  # characters of a command's final error
STANDARD_ERROR = 2  # its descriptor


class LineFormatter(logging.Formatter):
    """A message in one line, with the lines of a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with control characters escaped, including line breaks."""
        lines = [record.getMessage()]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        return "\n".join(map(printable, lines))


class PrintableStream(io.TextIOWrapper):
    """A stream that escapes what a terminal would interpret, whoever writes to it."""

    def write(self, text: str) -> int:
        """Writes the text escaped, except line breaks and the moves of progress bars."""
        moves = BETWEEN_BARS.fullmatch(text)
        return super().write(text if moves else printable(text, f"{LINES}\r"))

    def write_codes(self, text: str) -> int:
        """Writes the text with its codes, for a program that has escaped all other text itself."""
        return super().write(printable(text, f"{LINES}\r\b\a\x1b"))

    def close(self) -> None:
        """Keeps the descriptor open, which the interpreter's own stream shares."""
        self.flush()


class _RawView:
    """A view of a stream for a program that writes codes for the cursor and for colors."""

    def __init__(self, stream: PrintableStream) -> None:
        self.write = stream.write_codes
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_lines(*lines: object, error: bool = False) -> None:
    """Prints each argument on its own line, and flushes.

    Args:
        error: print to the standard error.
    """
    stream = sys.stderr if error else sys.stdout
    print("\n".join(printable(str(line)) for line in lines), file=stream, flush=True)


def print_in_handler(line: str) -> None:
    """Prints a line to the standard error from a signal handler.

    A handler may interrupt a write to the same stream, which refuses to be entered again; then the
    line goes to the descriptor directly.
    """
    try:
        print(line, file=sys.stderr, flush=True)
    except RuntimeError:
        os.write(STANDARD_ERROR, f"{line}\n".encode())


def log_lines(log: logging.Logger, text: str) -> None:
    """Logs each line of our own text separately; within a message line breaks are escaped."""
    for line in text.split("\n"):
        log.info(line)


def exit_with_error(message: object) -> NoReturn:
    """Ends the command with an error in one line and code 1."""
    text = printable(str(message))
    sys.exit(f"error: {text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + '...'}")


def escape_in_streams() -> None:
    """Makes the standard streams escape characters that they cannot encode, or that a terminal
    would interpret."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            escaping = PrintableStream(
                stream.buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )  # fmt: skip
            setattr(sys, name, escaping)


def with_codes(stream: TextIO) -> TextIO:
    """A stream for a program that writes codes and has escaped all text itself (rich)."""
    return cast(TextIO, _RawView(stream)) if isinstance(stream, PrintableStream) else stream
