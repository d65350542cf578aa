"""A stop request is new if its file has changed; clocks are not compared."""

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
def test_stop_requests_do_not_depend_on_clocks(tmp_path: Path, skew: int) -> None:
    """The file's time is that of a machine whose clock is wrong."""
    study = tmp_path / "studies" / "me"
    study.mkdir(parents=True)
    file, now = study / REQUEST_FILE, time.time() + skew
    with graceful_stop(study):
        assert not stop_reason()
        file.touch()
        os.utime(file, (now, now))
        assert stop_reason() == USER_REQUEST
    with graceful_stop(study):
        assert not stop_reason(), "that request was for another command"
        os.utime(file, (now + 1, now + 1))
        assert stop_reason() == USER_REQUEST
    file.unlink()
    with graceful_stop(study):
        assert not stop_reason()


def test_requests_while_a_worker_starts_are_honored(tmp_path: Path) -> None:
    """A queued job knows the requests that had been made when the command started."""
    for name in ("me", "other"):
        (tmp_path / "studies" / name).mkdir(parents=True)
    (tmp_path / "studies" / "other" / REQUEST_FILE).touch()
    before = stop_request_times(tmp_path)
    assert before.keys() == {"other"}
    (tmp_path / "studies" / "me" / REQUEST_FILE).touch()
    ignore_requests_before(before)
    ignore_requests_before(stop_request_times(tmp_path))  # the worker's own call comes too late
    with graceful_stop(tmp_path / "studies" / "me"):
        assert stop_reason() == USER_REQUEST
    ignore_requests_before(before)
    with graceful_stop(tmp_path / "studies" / "other"):
        assert not stop_reason()
