"""A request to leave is new where the file has changed: no clocks are compared."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sweeper.stop_request import FILE, PERSON, asked_before, graceful_stop, leaving, listen_from

YEAR = 365 * 24 * 3600


@pytest.mark.parametrize("skew", [-YEAR, 0, YEAR])
def test_whatever_the_clocks_say(tmp_path: Path, skew: int) -> None:
    """The file has the time of a machine whose clock is wrong."""
    study = tmp_path / "studies" / "me"
    study.mkdir(parents=True)
    file, now = study / FILE, time.time() + skew
    with graceful_stop(study):
        assert not leaving()
        file.touch()
        os.utime(file, (now, now))
        assert leaving() == PERSON
    with graceful_stop(study):
        assert not leaving(), "that was asked of another command"
        os.utime(file, (now + 1, now + 1))
        assert leaving() == PERSON
    file.unlink()
    with graceful_stop(study):
        assert not leaving()


def test_what_is_asked_while_a_worker_starts_is_heard(tmp_path: Path) -> None:
    """A job that waits for its place takes along what had been asked when the command began."""
    for name in ("me", "other"):
        (tmp_path / "studies" / name).mkdir(parents=True)
    (tmp_path / "studies" / "other" / FILE).touch()
    before = asked_before(tmp_path)
    assert before.keys() == {"other"}
    (tmp_path / "studies" / "me" / FILE).touch()
    listen_from(before)
    listen_from(asked_before(tmp_path))  # the worker's own look comes too late
    with graceful_stop(tmp_path / "studies" / "me"):
        assert leaving() == PERSON
    listen_from(before)
    with graceful_stop(tmp_path / "studies" / "other"):
        assert not leaving()
