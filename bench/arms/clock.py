"""Measures time and memory of this process; only standard modules, as imports are measured too."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # Linux: VmHWM starts again from the current VmRSS


def memory_gib(name: str) -> float:
    """Returns a line of this process's status, VmRSS (current) or VmHWM (peak), in GiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 2**20


class Clock:
    """Measures the steps of a training run.

    Args:
        started: start time of the process, in seconds since 1970.
    """

    def __init__(self, started: float) -> None:
        self.started, self.first, self.first_cpu = started, 0.0, 0.0
        self.peak = self.loaded = self.before = self.activations = 0.0
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []  # of this thread only, without waiting

    def begin(self) -> None:
        """Marks the begin of a step."""
        self._reset_peak()
        if not self.seconds:
            self.loaded = self.before
        self.began, self.cpu_began = time.perf_counter(), time.thread_time()

    def end(self) -> None:
        """Marks the end of a step, after the optimizer."""
        self.seconds.append(time.perf_counter() - self.began)
        self.cpu_seconds.append(time.thread_time() - self.cpu_began)
        if len(self.seconds) == 1:
            self.first, self.first_cpu = time.time() - self.started, time.thread_time()
        elif len(self.seconds) == 2:  # all weights are read, the optimizer state exists
            self.activations = memory_gib("VmHWM") - self.before

    def _reset_peak(self) -> None:
        if len(self.seconds) < 2:
            self.peak = max(self.peak, memory_gib("VmHWM"))
            ctypes.CDLL(None).malloc_trim(0)  # so that freed memory does not count
            self.before = memory_gib("VmRSS")
            CLEAR_REFS.write_text(RESET_PEAK)

    def report(self, **extra: Any) -> None:
        """Prints the measurements as one line of JSON."""
        measurements = {
            "seconds_a_step": median(self.seconds[1:]),  # without the warm-up step
            "seconds_to_first_step": self.first,
            "processor_seconds_a_step": median(self.cpu_seconds[1:]),
            "processor_seconds_to_first_step": self.first_cpu,
            "peak_gib": max(self.peak, memory_gib("VmHWM")),
            "loaded_gib": self.loaded,
            "activations_gib": self.activations,
        }
        print(json.dumps(measurements | extra), file=sys.stdout, flush=True)
