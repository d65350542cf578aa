"""Stopping a study at the end of the running epoch, because someone or the clock asks for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from train.files.atomic_write import write_atomically
from train.text.terminal import print_in_handler

PERSON, CLOCK = "asked to leave", "the hours are over"
FILE = "leave"  # in a study's folder: who touches it asks all its workers, wherever they run
_reason, _deadline = "", float("inf")  # a process has one terminal, one clock and one study
_file: Path | None = None
_before: dict[str, int] | None = None


def leaving() -> str:
    """Why no further epoch is to begin; empty: go on."""
    if _file is not None and _touched(_file) not in (None, (_before or {}).get(_file.parent.name)):
        return PERSON
    return _reason or (CLOCK if time.monotonic() > _deadline else "")


def asked_before(root: Path) -> dict[str, int]:
    """Study -> when it was last asked to leave, by the clock of the file system.

    A request is new where this has changed. No clocks are compared: those of two machines differ.
    """
    files = (root / "studies").glob(f"*/{FILE}")
    return {file.parent.name: moment for file in files if (moment := _touched(file)) is not None}


def listen_from(before: dict[str, int]) -> None:
    """What had been asked when a command began (see `asked_before`) is over. Of several calls the
    first one counts: that of the command which started this process."""
    global _before
    if _before is None:
        _before = before


def _touched(file: Path) -> int | None:
    """When a file was last touched, in nanoseconds since 1970; None: there is no file."""
    try:
        return file.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return None


@contextmanager
def graceful_stop(
    study: Path, hours: float | None = None, for_others: bool = False
) -> Iterator[None]:
    """Within this context the first Ctrl-C, the study's file `leave`, or the clock asks to leave.
    A second Ctrl-C forces it.

    Args:
        hours: None: as long as it takes.
        for_others: Ctrl-C here touches the file.
    """
    global _reason, _deadline, _file, _before

    def asked(number: int, frame: FrameType | None) -> None:
        global _reason
        if _reason:
            raise KeyboardInterrupt
        _reason = PERSON
        print_in_handler("finishing this epoch; Ctrl-C again leaves at once")
        if for_others:
            write_atomically(study / FILE, b"")

    _file = study / FILE
    listen_from({} if (moment := _touched(_file)) is None else {study.name: moment})
    _deadline = time.monotonic() + hours * 3600 if hours is not None else float("inf")
    main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    before = signal.signal(signal.SIGINT, asked) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
        _reason, _deadline, _file, _before = "", float("inf"), None, None
