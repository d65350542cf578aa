"""Handles errors of the machine: the command stops, or waits and retries (`study.on_outage`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sweeper.config import WAIT, StudyConfig
from sweeper.recording.progress import duration
from sweeper.study.storage import AWAY
from train.config import cause
from train.outage import Outage, ends_the_process, outage

log = logging.getLogger(__name__)
FIRST, LONGEST = 10.0, 600.0  # seconds before a retry; the pause doubles each time
GOES_ON = "the same command continues the study"


def outlast(study: StudyConfig, action: Callable[[], None]) -> None:
    """Runs a study's command; on an error of the machine it stops or retries.

    Args:
        action: continues the study from its current state each time it is called.

    Raises:
        Outage: an error of the machine, if `study.on_outage` is "stop" or a retry cannot help.
    """
    place, begun, pause = Path(study.root) / "studies", False, FIRST
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
            if study.on_outage != WAIT or ends_the_process(error):
                again = f"; {GOES_ON}" if begun and GOES_ON not in words else ""
                raise Outage(f"{words}{again}") from error
        if time.monotonic() - began > LONGEST:  # it worked for a while
            pause = FIRST
        log.warning(f"waiting: {words}; retrying in {duration(pause)} (Ctrl-C stops)")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)
