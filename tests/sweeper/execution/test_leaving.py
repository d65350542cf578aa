"""A request to leave is new where the file has changed: no clocks are compared."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sweeper.stop_request import (
    REQUEST_FILE,
    USER_REQUEST,
    graceful_stop,
    ignore_requests_before,
    stop_reason,
    stop_request_times,
)

YEAR = 365 * 24 * 3600


@pytest.mark.parametrize("skew", [-YEAR, 0, YEAR])
def test_whatever_the_clocks_say(tmp_path: Path, skew: int) -> None:
    """The file has the time of a machine whose clock is wrong."""
    study = tmp_path / "studies" / "me"
    study.mkdir(parents=True)
    file, now = study / REQUEST_FILE, time.time() + skew
    with graceful_stop(study):
        assert not stop_reason()
        file.touch()
        os.utime(file, (now, now))
        assert stop_reason() == USER_REQUEST
    with graceful_stop(study):
        assert not stop_reason(), "that was asked of another command"
        os.utime(file, (now + 1, now + 1))
        assert stop_reason() == USER_REQUEST
    file.unlink()
    with graceful_stop(study):
        assert not stop_reason()


def test_what_is_asked_while_a_worker_starts_is_heard(tmp_path: Path) -> None:
    """A job that waits for its place takes along what had been asked when the command began."""
    for name in ("me", "other"):
        (tmp_path / "studies" / name).mkdir(parents=True)
    (tmp_path / "studies" / "other" / REQUEST_FILE).touch()
    before = stop_request_times(tmp_path)
    assert before.keys() == {"other"}
    (tmp_path / "studies" / "me" / REQUEST_FILE).touch()
    ignore_requests_before(before)
    ignore_requests_before(stop_request_times(tmp_path))  # the worker's own look comes too late
    with graceful_stop(tmp_path / "studies" / "me"):
        assert stop_reason() == USER_REQUEST
    ignore_requests_before(before)
    with graceful_stop(tmp_path / "studies" / "other"):
        assert not stop_reason()
