"""Ctrl-C during training: the current step is finished and the state saved before leaving."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from train.text.terminal import print_in_handler

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # clusters send the latter to preempt a job
ECHO_SECONDS = 2.0  # seconds within which a launcher forwards the terminal's signal


@contextmanager
def graceful_stop(main: bool = True) -> Iterator[Callable[[], bool]]:
    """Context manager: the first Ctrl-C requests a stop, and a second one forces it.

    Args:
        main: whether this process prints a message.

    Yields:
        a function that tells whether a stop was requested.
    """
    requested_at = 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested_at
        if requested_at and time.monotonic() - requested_at > ECHO_SECONDS:
            raise KeyboardInterrupt
        if not requested_at and main:
            print_in_handler("finishing this step; Ctrl-C again leaves at once")
        requested_at = requested_at or time.monotonic()

    old_handlers = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield lambda: bool(requested_at)
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
