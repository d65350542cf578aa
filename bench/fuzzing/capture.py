"""Captures what a case prints and logs, as a terminal would receive it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from train.cli.app import configure_logging


class OutputBuffer(io.BytesIO):
    """Captured output; stays readable when the streams that write to it are closed."""

    def close(self) -> None:
        """Does nothing."""


@contextmanager
def capture_output() -> Iterator[OutputBuffer]:
    """Captures what is printed and logged within this context."""
    output, before = OutputBuffer(), (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    streams = [io.TextIOWrapper(output, encoding="utf-8", write_through=True) for _ in before]
    _set_streams(streams[:2] * 2)
    configure_logging()
    try:
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _set_streams(before)


def _set_streams(streams: Sequence[Any]) -> None:
    """Sets the streams of this process, also the original ones, which the commands wrap."""
    sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]
