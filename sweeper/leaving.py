"""Leaving in good order: at the end of the running epoch, because someone or the clock says so."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PERSON, CLOCK = "asked to leave", "the hours are over"
FILE = "leave"  # in a study's folder: who touches it asks all its workers, wherever they run
_reason, _deadline = "", float("inf")  # a process has one terminal, one clock and one study
_file: Path | None = None
_since = time.time()


def leaving() -> str:
    """Why no further epoch is to begin; empty: go on."""
    if _file is not None and _file.is_file() and _file.stat().st_mtime > _since:
        return PERSON
    return _reason or (CLOCK if time.monotonic() > _deadline else "")


def listen_since(moment: float) -> None:
    """What was asked before this moment (seconds since 1970) is over; else: before the start."""
    global _since
    _since = moment


@contextmanager
def in_good_order(
    study: Path, hours: float | None = None, for_others: bool = False
) -> Iterator[None]:
    """Within this context the first Ctrl-C, the study's file `leave`, or the clock asks to leave.
    A second Ctrl-C forces it.

    Args:
        hours: None: as long as it takes.
        for_others: Ctrl-C here touches the file.
    """
    global _reason, _deadline, _file

    def asked(number: int, frame: FrameType | None) -> None:
        global _reason
        if _reason:
            raise KeyboardInterrupt
        _reason = PERSON
        print("finishing this epoch; Ctrl-C again leaves at once", file=sys.stderr, flush=True)
        if for_others:
            (study / FILE).touch()

    _file = study / FILE
    _deadline = time.monotonic() + hours * 3600 if hours is not None else float("inf")
    main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    before = signal.signal(signal.SIGINT, asked) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
        _reason, _deadline, _file = "", float("inf"), None
