"""Stops a study at the end of the current epoch, on request or when its time is up."""

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

USER_REQUEST, TIME_LIMIT = "stopped by request", "the time budget is used up"
# in a study's folder: touching it stops all workers of the study, on every machine
REQUEST_FILE = "leave"
_reason, _deadline = "", float("inf")  # global: a process has one terminal and one study
_request_file: Path | None = None
_earlier_requests: dict[str, int] | None = None


def stop_reason() -> str:
    """Why no further epoch may start; empty if the study goes on."""
    if _request_file is not None:
        earlier = (_earlier_requests or {}).get(_request_file.parent.name)
        if _mtime_of(_request_file) not in (None, earlier):
            return USER_REQUEST
    return _reason or (TIME_LIMIT if time.monotonic() > _deadline else "")


def stop_request_times(root: Path) -> dict[str, int]:
    """Study -> time of its last stop request (nanoseconds, by the file system's clock).

    A request is new if this time has changed. It is never compared with this machine's clock,
    because the clocks of two machines differ.
    """
    files = (root / "studies").glob(f"*/{REQUEST_FILE}")
    return {file.parent.name: mtime for file in files if (mtime := _mtime_of(file)) is not None}


def ignore_requests_before(times: dict[str, int]) -> None:
    """Ignores stop requests that were made before a command started (see `stop_request_times`).

    Only the first call counts: that of the command which started this process.
    """
    global _earlier_requests
    if _earlier_requests is None:
        _earlier_requests = times


def _mtime_of(file: Path) -> int | None:
    """When a file was last touched, in nanoseconds since 1970; None if it does not exist."""
    try:
        return file.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return None


@contextmanager
def graceful_stop(
    study: Path, hours: float | None = None, forward_to_workers: bool = False
) -> Iterator[None]:
    """Context manager: Ctrl-C, the study's file `leave` or the time limit request a stop.

    A second Ctrl-C raises KeyboardInterrupt at once.

    Args:
        hours: the time limit; None: no limit.
        forward_to_workers: whether Ctrl-C also touches the file.
    """
    global _reason, _deadline, _request_file, _earlier_requests

    def handle_sigint(number: int, frame: FrameType | None) -> None:
        global _reason
        if _reason:
            raise KeyboardInterrupt
        _reason = USER_REQUEST
        print_in_handler("finishing this epoch; press Ctrl-C again to stop at once")
        if forward_to_workers:
            write_atomically(study / REQUEST_FILE, b"")

    _request_file = study / REQUEST_FILE
    mtime = _mtime_of(_request_file)
    ignore_requests_before({} if mtime is None else {study.name: mtime})
    _deadline = time.monotonic() + hours * 3600 if hours is not None else float("inf")
    main = threading.current_thread() is threading.main_thread()  # only it may set a handler
    previous_handler = signal.signal(signal.SIGINT, handle_sigint) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, previous_handler)
        _reason, _deadline, _request_file, _earlier_requests = "", float("inf"), None, None
