"""A thread that runs actions in the background, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Queue
from threading import Thread

log = logging.getLogger(__name__)


class BackgroundThread:
    """A daemon thread that runs submitted actions in order.

    A `ThreadPoolExecutor` would be joined at exit, so a tracking server that does not answer would
    keep a process alive after a second Ctrl-C or an error.
    """

    def __init__(self) -> None:
        self._work: Queue[Callable[[], None]] = Queue()
        self._thread: Thread | None = None

    def submit(self, action: Callable[[], None]) -> None:
        """Runs an action after all earlier ones."""
        self._work.put(action)
        if self._thread is None:
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Blocks until all submitted actions are done."""
        self._work.join()

    def _run(self) -> None:
        while True:
            action = self._work.get()
            try:
                action()
            except Exception as error:  # an error in logging must not end the thread or the study
                log.warning(f"not logged to MLflow: {error}", exc_info=log.isEnabledFor(10))
            finally:
                self._work.task_done()
