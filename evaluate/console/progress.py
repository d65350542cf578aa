"""How far a long stage is, and how long it will yet take."""

from __future__ import annotations

import logging
import time

from train.data.folders.wording import counted

log = logging.getLogger(__name__)
EVERY = 15.0  # seconds between two lines


class Countdown:
    """Counts pictures; says every EVERY seconds how many are done and when the rest will be.

    A stage that is over sooner says nothing.

    Args:
        what: is done, as "the bare base draws".
        total: pictures.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._began = self._said = time.monotonic()

    def step(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        now = time.monotonic()
        if now - self._said < EVERY or self.done >= self.total:
            return
        self._said = now
        left = (now - self._began) / self.done * (self.total - self.done)
        done = f"{self.done} of {counted(self.total, 'picture')}"
        log.info(f"{self.what} {done}, about {duration(left)} left")

    def skip(self, count: int) -> None:
        """So many need not be done."""
        self.total -= count


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
