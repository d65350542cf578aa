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

USER_REQUEST, TIME_LIMIT = "asked to leave", "the hours are over"
REQUEST_FILE = (
    "leave"  # in a study's folder: who touches it asks all its workers, wherever they run
)
_reason, _deadline = "", float("inf")  # a process has one terminal, one clock and one study
_request_file: Path | None = None
_earlier_requests: dict[str, int] | None = None


def stop_reason() -> str:
    """Why no further epoch is to begin; empty: go on."""
    if _request_file is not None and _mtime_of(_request_file) not in (
        None,
        (_earlier_requests or {}).get(_request_file.parent.name),
    ):
        return USER_REQUEST
    return _reason or (TIME_LIMIT if time.monotonic() > _deadline else "")


def stop_request_times(root: Path) -> dict[str, int]:
    """Study -> when it was last asked to leave, by the clock of the file system.

    A request is new where this has changed. No clocks are compared: those of two machines differ.
    """
    files = (root / "studies").glob(f"*/{REQUEST_FILE}")
    return {file.parent.name: moment for file in files if (moment := _mtime_of(file)) is not None}


def ignore_requests_before(times: dict[str, int]) -> None:
    """What had been asked when a command began (see `asked_before`) is over. Of several calls the
    first one counts: that of the command which started this process."""
    global _earlier_requests
    if _earlier_requests is None:
        _earlier_requests = times


def _mtime_of(file: Path) -> int | None:
    """When a file was last touched, in nanoseconds since 1970; None: there is no file."""
    try:
        return file.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return None


@contextmanager
def graceful_stop(
    study: Path, hours: float | None = None, forward_to_workers: bool = False
) -> Iterator[None]:
    """Within this context the first Ctrl-C, the study's file `leave`, or the clock asks to leave.
    A second Ctrl-C forces it.

    Args:
        hours: None: as long as it takes.
        for_others: Ctrl-C here touches the file.
    """
    global _reason, _deadline, _request_file, _earlier_requests

    def handle_sigint(number: int, frame: FrameType | None) -> None:
        global _reason
        if _reason:
            raise KeyboardInterrupt
        _reason = USER_REQUEST
        print_in_handler("finishing this epoch; Ctrl-C again leaves at once")
        if forward_to_workers:
            write_atomically(study / REQUEST_FILE, b"")

    _request_file = study / REQUEST_FILE
    ignore_requests_before(
        {} if (moment := _mtime_of(_request_file)) is None else {study.name: moment}
    )
    _deadline = time.monotonic() + hours * 3600 if hours is not None else float("inf")
    main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    previous_handler = signal.signal(signal.SIGINT, handle_sigint) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, previous_handler)
        _reason, _deadline, _request_file, _earlier_requests = "", float("inf"), None, None
