"""Ctrl-C in the middle of a training: it finishes the step and saves its state before it leaves."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a cluster that wants its machine back sends the latter
ECHO = 2.0  # seconds within which a launcher passes on the signal that the terminal has sent


@contextmanager
def in_good_order(main: bool = True) -> Iterator[Callable[[], bool]]:
    """Within this context the first Ctrl-C asks to leave, and a second one forces it.

    Args:
        main: whether this process says so on the terminal.

    Yields:
        whether someone has asked.
    """
    since = 0.0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if since and time.monotonic() - since > ECHO:
            raise KeyboardInterrupt
        if not since and main:
            print("finishing this step; Ctrl-C again leaves at once", file=sys.stderr, flush=True)
        since = since or time.monotonic()

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: bool(since)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
