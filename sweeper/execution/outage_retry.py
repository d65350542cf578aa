"""Handles errors of the machine: the command stops, or waits and retries (`study.on_outage`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sweeper.config import WAIT, StudyConfig
from sweeper.console.progress import duration
from sweeper.stop_request import asked_before
from sweeper.study.storage import AWAY
from train.config.parsing import cause
from train.system.outage import Outage, ends_the_process, needs_manual_fix, outage

log = logging.getLogger(__name__)
FIRST, LONGEST = 10.0, 600.0  # seconds before a retry; the pause doubles each time
LOOK = 1.0  # seconds between two looks at whether somebody asks to leave
GOES_ON = "the same command continues the study"


def retry_on_outage(study: StudyConfig, action: Callable[[], None]) -> None:
    """Runs a study's command; on an error of the machine it stops or retries.

    Args:
        action: continues the study from its current state each time it is called.

    Raises:
        KeyboardInterrupt: somebody asked the study to leave while it waited.
        Outage: an error of the machine, if `study.on_outage` is "stop" or a retry cannot help.
    """
    place, begun, pause = Path(study.root) / "studies", False, FIRST
    asked = asked_before(Path(study.root))
    while True:
        began = time.monotonic()
        try:
            if begun and not place.is_dir():  # an unmounted share: do not create the study below it
                raise Outage(f"{place} is not there any more")
            place.mkdir(parents=True, exist_ok=True)
            begun = True
            return action()
        except Exception as error:
            words = outage(error) or (cause(error) if isinstance(error.__cause__, AWAY) else "")
            if not words:
                raise
            if not begun:
                words = f"study.root: {words}"
            hopeless = ends_the_process(error) or needs_manual_fix(error)
            if study.on_outage != WAIT or hopeless:
                again = f"; {GOES_ON}" if begun and GOES_ON not in words else ""
                raise Outage(f"{words}{again}") from error
        if time.monotonic() - began > LONGEST:  # it worked for a while
            pause = FIRST
        log.warning(f"waiting: {words}; retrying in {duration(pause)} (Ctrl-C stops)")
        _wait(pause, study, asked)
        pause = min(2 * pause, LONGEST)


def _wait(seconds: float, study: StudyConfig, asked: dict[str, int]) -> None:
    """Waits, unless the study's file `leave` has been touched since the command began.

    Args:
        asked: when each study had been asked to leave by then. A file that is away is no request.

    Raises:
        KeyboardInterrupt: it was touched.
    """
    end = time.monotonic() + seconds
    while True:
        for name, moment in asked_before(Path(study.root)).items():
            if name == study.name and asked.get(name) != moment:
                raise KeyboardInterrupt
        if (left := end - time.monotonic()) <= 0:
            return
        time.sleep(min(left, LOOK))
