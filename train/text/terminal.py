"""What reaches the terminal: lines of text in which no character of a name is a command.

Three things go through here: the log (`LineFormatter`), lines that a command prints
(`print_lines`) and the line with which it ends (`leave`). Beyond that the streams themselves escape
what other libraries write, such as warnings and tracebacks (`escape_in_streams`).
"""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Any, NoReturn, TextIO, cast

from train.text.display import LINES, printable

BETWEEN_BARS = re.compile(r"(?:\n|\x1b\[A)+")  # how tqdm goes from a bar to another, and back


LONGEST = 2000  # characters of the line with which a command ends


class LineFormatter(logging.Formatter):
    """A message in one line; the lines of a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Characters of control, line breaks among them, are escaped."""
        lines = [record.getMessage()]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        return "\n".join(map(printable, lines))


class PrintableStream(io.TextIOWrapper):
    """A stream that escapes what a terminal would obey, whoever writes it."""

    def write(self, text: str) -> int:
        """Writes it escaped, but for what lays out lines and moves progress bars."""
        moves = BETWEEN_BARS.fullmatch(text)
        return super().write(text if moves else printable(text, f"{LINES}\r"))

    def write_codes(self, text: str) -> int:
        """Writes it with its codes, for a program that has escaped those of all text itself."""
        return super().write(printable(text, f"{LINES}\r\b\a\x1b"))

    def close(self) -> None:
        """Keeps the descriptor open, which it shares with the stream of the interpreter."""
        self.flush()


class _CodesOf:
    """A stream as it is seen by a program that writes codes for the cursor and for colors."""

    def __init__(self, stream: PrintableStream) -> None:
        self.write = stream.write_codes
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_lines(*lines: object, error: bool = False) -> None:
    """Prints each as a line of its own, at once.

    Args:
        error: to the standard error.
    """
    stream = sys.stderr if error else sys.stdout
    print("\n".join(printable(str(line)) for line in lines), file=stream, flush=True)


def log_lines(log: logging.Logger, text: str) -> None:
    """Logs each line of a text of our own; within a message a line break would be escaped."""
    for line in text.split("\n"):
        log.info(line)


def leave(message: object) -> NoReturn:
    """Ends the command with a line that says what is wrong, and code 1."""
    text = printable(str(message))
    sys.exit(f"error: {text if len(text) <= LONGEST else text[:LONGEST] + '...'}")


def escape_in_streams() -> None:
    """Lets no character stop a print, or be obeyed by the terminal: both are escaped."""
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
    return cast(TextIO, _CodesOf(stream)) if isinstance(stream, PrintableStream) else stream
