"""What a case prints and logs, as a terminal would get it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from train.cli.app import configure_logging


class Told(io.BytesIO):
    """What was said; it outlives the streams that write to it."""

    def close(self) -> None:
        """Nothing."""


@contextmanager
def captured() -> Iterator[Told]:
    """What is printed and logged, as a terminal would get it."""
    told, before = Told(), (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    streams = [io.TextIOWrapper(told, encoding="utf-8", write_through=True) for _ in before]
    _take(streams[:2] * 2)
    configure_logging()
    try:
        yield told
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _take(before)


def _take(streams: Sequence[Any]) -> None:
    """The streams of this process: the commands escape in those that Python began with."""
    sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]
