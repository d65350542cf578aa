"""Handles outages of the machine: the command stops, or waits and retries (`study.on_outage`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sweeper.config import WAIT, StudyConfig
from sweeper.console.progress import duration
from sweeper.stop_request import stop_request_times
from sweeper.study.storage import OUTAGE_ERRORS
from train.config.parsing import cause
from train.system.outage import Outage, ends_the_process, needs_manual_fix, outage

log = logging.getLogger(__name__)
MIN_PAUSE, MAX_PAUSE = 10.0, 600.0  # seconds before a retry; the pause doubles each time
POLL_SECONDS = 1.0  # seconds between two checks for stop requests
CONTINUE_HINT = "the same command continues the study"


def retry_on_outage(study: StudyConfig, action: Callable[[], None]) -> None:
    """Runs a study's command; after an outage of the machine, stops or retries.

    Args:
        action: continues the study from its current state each time it is called.

    Raises:
        KeyboardInterrupt: somebody requested a stop while it waited.
        Outage: the machine fails, and `study.on_outage` is "stop" or a retry cannot help.
    """
    studies, has_started, pause = Path(study.root) / "studies", False, MIN_PAUSE
    earlier_requests = stop_request_times(Path(study.root))
    while True:
        started = time.monotonic()
        try:
            if has_started and not studies.is_dir():  # a share was unmounted: do not recreate it
                raise Outage(f"{studies} no longer exists")
            studies.mkdir(parents=True, exist_ok=True)
            has_started = True
            return action()
        except Exception as error:
            is_storage_outage = isinstance(error.__cause__, OUTAGE_ERRORS)
            reason = outage(error) or (cause(error) if is_storage_outage else "")
            if not reason:
                raise
            if not has_started:
                reason = f"study.root: {reason}"
            cannot_retry = ends_the_process(error) or needs_manual_fix(error)
            if study.on_outage != WAIT or cannot_retry:
                hint = f"; {CONTINUE_HINT}" if has_started and CONTINUE_HINT not in reason else ""
                raise Outage(f"{reason}{hint}") from error
        if time.monotonic() - started > MAX_PAUSE:  # it worked for a while
            pause = MIN_PAUSE
        log.warning(f"waiting: {reason}; retrying in {duration(pause)} (Ctrl-C stops)")
        _wait(pause, study, earlier_requests)
        pause = min(2 * pause, MAX_PAUSE)


def _wait(seconds: float, study: StudyConfig, earlier_requests: dict[str, int]) -> None:
    """Waits, unless a stop has been requested since the command started.

    Args:
        earlier_requests: `stop_request_times` at the start. A missing file is not a request.

    Raises:
        KeyboardInterrupt: a stop was requested.
    """
    end = time.monotonic() + seconds
    while True:
        for name, time_of_request in stop_request_times(Path(study.root)).items():
            if name == study.name and earlier_requests.get(name) != time_of_request:
                raise KeyboardInterrupt
        if (remaining := end - time.monotonic()) <= 0:
            return
        time.sleep(min(remaining, POLL_SECONDS))
