"""Progress of a long stage, with an estimate of the remaining time."""

from __future__ import annotations

import logging
import time

from train.data.folders.wording import count_noun

log = logging.getLogger(__name__)
LOG_INTERVAL = 15.0  # seconds between two lines


class Countdown:
    """Counts images; logs every EVERY seconds how many are done, and the remaining time.

    A shorter stage logs nothing.

    Args:
        what: subject and verb of the line, as "the base model generates".
        total: number of images.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._began = self._logged = time.monotonic()

    def step(self, count: int) -> None:
        """Counts `count` images as done."""
        self.done += count
        now = time.monotonic()
        if now - self._logged < LOG_INTERVAL or self.done >= self.total:
            return
        self._logged = now
        left = (now - self._began) / self.done * (self.total - self.done)
        done = f"{self.done} of {count_noun(self.total, 'image')}"
        log.info(f"{self.what} {done}, about {duration(left)} left")

    def skip(self, count: int) -> None:
        """Removes `count` images from the total."""
        self.total -= count


def duration(seconds: float) -> str:
    """Seconds in readable units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
