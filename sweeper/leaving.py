"""Leaving in good order: at the end of the running epoch, because a person or the clock says so."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PERSON, CLOCK = "Ctrl-C", "the hours are over"
_reason, _deadline = "", float("inf")  # a process has one terminal and one clock


def leaving() -> str:
    """Why no further epoch is to begin; empty: go on."""
    return _reason or (CLOCK if time.monotonic() > _deadline else "")


@contextmanager
def in_good_order(hours: float | None) -> Iterator[None]:
    """Within this context the first Ctrl-C, or the clock, asks to leave; a second one forces it.

    Args:
        hours: None: as long as it takes.
    """
    global _reason, _deadline
    _deadline = time.monotonic() + hours * 3600 if hours is not None else float("inf")
    before = signal.signal(signal.SIGINT, _asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _reason, _deadline = "", float("inf")


def _asked(number: int, frame: FrameType | None) -> None:
    global _reason
    if _reason:
        raise KeyboardInterrupt
    _reason = PERSON
    print("finishing this epoch; Ctrl-C again leaves at once", file=sys.stderr, flush=True)
