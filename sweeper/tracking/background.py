"""Work that nothing waits for, one piece after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Queue
from threading import Thread

log = logging.getLogger(__name__)


class BackgroundThread:
    """A thread that does what it is given, in order; it ends with its process.

    A `ThreadPoolExecutor` would be joined at exit, so that a tracking server which does not answer
    would hold a process that a second Ctrl-C or an error has ended.
    """

    def __init__(self) -> None:
        self._work: Queue[Callable[[], None]] = Queue()
        self._thread: Thread | None = None

    def submit(self, action: Callable[[], None]) -> None:
        """Once everything before is done."""
        self._work.put(action)
        if self._thread is None:
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Returns when everything is done."""
        self._work.join()

    def _run(self) -> None:
        while True:
            action = self._work.get()
            try:
                action()
            except Exception as error:  # it may not end the thread, nor what it works for
                log.warning(f"could not be logged: {error}", exc_info=log.isEnabledFor(10))
            finally:
                self._work.task_done()
