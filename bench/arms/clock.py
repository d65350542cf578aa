"""Time and memory of one process, in nothing but Python's own modules: imports count as well."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # Linux: the peak begins at what is there now


def memory(name: str) -> float:
    """A line of this process's status, as VmRSS (now) or VmHWM (the most until now), in GiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 2**20


class Clock:
    """Measures the steps of a training.

    Args:
        started: when the process was started, in seconds since 1970.
    """

    def __init__(self, started: float) -> None:
        self.started, self.first, self.first_worked = started, 0.0, 0.0
        self.peak = self.loaded = self.before = self.activations = 0.0
        self.seconds: list[float] = []
        self.processor: list[float] = []  # of this thread alone; waiting for others is not in it

    def begin(self) -> None:
        """A step begins."""
        self._new_peak()
        if not self.seconds:
            self.loaded = self.before
        self.began, self.worked = time.perf_counter(), time.thread_time()

    def end(self) -> None:
        """The step has ended, the optimizer's part included."""
        self.seconds.append(time.perf_counter() - self.began)
        self.processor.append(time.thread_time() - self.worked)
        if len(self.seconds) == 1:
            self.first, self.first_worked = time.time() - self.started, time.thread_time()
        elif len(self.seconds) == 2:  # by now all weights were read and the optimizer has its state
            self.activations = memory("VmHWM") - self.before

    def _new_peak(self) -> None:
        if len(self.seconds) < 2:
            self.peak = max(self.peak, memory("VmHWM"))
            ctypes.CDLL(None).malloc_trim(0)  # what is free already is not the step's
            self.before = memory("VmRSS")
            CLEAR.write_text(RESET_PEAK)

    def report(self, **more: Any) -> None:
        """Prints what was measured, as one line of JSON."""
        found = {
            "seconds_a_step": median(self.seconds[1:]),  # the first one warms up
            "seconds_to_first_step": self.first,
            "processor_seconds_a_step": median(self.processor[1:]),
            "processor_seconds_to_first_step": self.first_worked,
            "peak_gib": max(self.peak, memory("VmHWM")),
            "loaded_gib": self.loaded,
            "activations_gib": self.activations,
        }
        print(json.dumps(found | more), file=sys.stdout, flush=True)
