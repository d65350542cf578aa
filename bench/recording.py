"""What recording a sweep costs: time for which training waits, and work of the background thread.

`python -m bench.recording [overrides]` (5 minutes on 2 cores) runs the default sweep and
times every call that writes, logs or prints.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.scorer import Scorer
from sweeper.config import SweepConfig, check_sweep
from sweeper.console.progress import Progress
from sweeper.execution import driver
from sweeper.search.conditional_params import is_active
from sweeper.tracking.background import BackgroundThread
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import TrialRecord, load_records
from train.cli.app import run

RESULTS = Path(__file__).parent / "results"
TIMED_METHODS = {
    TrialRecord: ("add", "save"),
    MlflowMirror: ("begin", "mirror", "flush", "finalize"),
    Progress: ("began", "scored", "ended"),
    Scorer: ("sheet", "base_sheet"),
}
# keys of recording.json
ALL_TRIALS = "all trials, from the first to the last"
BACKGROUND = "the thread beside, computing"


class CallTimer:
    """Times calls of methods; a call inside a timed call counts as part of the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds = 0.0
        self._inside = False

    def patch(self, owner: Any, name: str) -> None:
        """Replaces a method by one that times its calls."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return original(*arguments, **options)
            self._inside = True
            began, cpu_began = time.perf_counter(), time.thread_time()
            try:
                return original(*arguments, **options)
            finally:
                self._inside = False
                self.cpu_seconds += time.thread_time() - cpu_began
                self.seconds[f"{owner.__name__}.{name}"] += time.perf_counter() - began

        setattr(owner, name, timed)

    def patch_background(self) -> None:
        """Measures CPU time of the background thread; waiting for a disk costs nothing."""
        original = BackgroundThread.submit

        def timed(action: Callable[[], None]) -> None:
            began = time.thread_time()
            try:
                action()
            finally:
                self.seconds[BACKGROUND] += time.thread_time() - began

        def submit(background: BackgroundThread, action: Callable[[], None]) -> None:
            original(background, partial(timed, action))

        BackgroundThread.submit = submit  # type: ignore[assignment, method-assign]


def sweep(root: Path, overrides: list[str]) -> dict[str, Any]:
    """Runs the sweep in this process, and returns the seconds spent on each part of it."""
    timer, original = CallTimer(), driver.run_trials
    for owner, names in TIMED_METHODS.items():
        for name in names:
            timer.patch(owner, name)
    timer.patch_background()

    def run_trials(*arguments: Any) -> None:
        began = time.perf_counter()
        original(*arguments)
        timer.seconds[ALL_TRIALS] += time.perf_counter() - began

    driver.run_trials = run_trials  # type: ignore[assignment]
    line = ["-m", f"study.root={root}", "study.name=recorded", *overrides]
    sys.argv = ["sweeper", *line]
    began, cpu_began = time.perf_counter(), time.process_time()
    run("sweep", SweepConfig, check_sweep, "sweeper.execution.single_trial:run", is_active)
    total, cpu_total = time.perf_counter() - began, time.process_time() - cpu_began
    epochs = [epoch for r in load_records(root / "studies" / "recorded") for epoch in r.epochs]
    recording = {k: v for k, v in timer.seconds.items() if k not in (ALL_TRIALS, BACKGROUND)}
    return {
        "epochs": len(epochs),
        "whole command": total,
        ALL_TRIALS: timer.seconds[ALL_TRIALS],
        "training and scoring": sum(epoch.seconds for epoch in epochs),
        "recording, waited for": sum(recording.values()),
        BACKGROUND: timer.seconds[BACKGROUND],
        "the whole command, computing": cpu_total,
        "recording, computing": timer.cpu_seconds,
        "by call": dict(sorted(recording.items(), key=lambda item: -item[1])),
    }


def table(report: dict[str, Any]) -> str:
    """Formats the seconds, and their shares of the command's time, as Markdown."""
    total, trials, work = (
        report["whole command"],
        report[ALL_TRIALS],
        report["training and scoring"],
    )
    rows = {
        "the whole command": total,
        "all trials": trials,
        "training and scoring": work,
        "everything else during the trials": trials - work,
        "recording, for which training waits": report["recording, waited for"],
    }
    cpu_total = report["the whole command, computing"]
    cpu_rows = {
        "the whole command": cpu_total,
        "recording, for which training waits": report["recording, computing"],
        "recording, in the background thread": report[BACKGROUND],
    }
    lines = ["# What recording costs", "",
             f"A sweep with {report['epochs']} scored epochs (`python -m bench.recording`)."
             " Recording: drawing contact sheets, writing records, logging to MLflow, printing.",
             "", "| | seconds | share of the command |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {s:.2f} | {100 * s / total:.2f}% |" for name, s in rows.items()]
    lines += ["", "CPU time, which other programs do not lengthen:", "",
              "| | seconds | share of the command |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {n} | {s:.2f} | {100 * s / cpu_total:.2f}% |" for n, s in cpu_rows.items()]
    lines += ["", "| method | seconds, all calls | ms per epoch |", "|---|---|---|"]
    lines += [f"| `{name}` | {s:.2f} | {1000 * s / report['epochs']:.1f} |"
              for name, s in report["by call"].items()]  # fmt: skip
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the benchmark, writes results/recording.json and .md, and prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = sys.argv[1:]
        roots = [word for word in overrides if word.startswith("study.root=")]
        root = Path(roots[-1].split("=", 1)[1] if roots else folder)
        report = sweep(root, [word for word in overrides if word not in roots])
    (RESULTS / "recording.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "recording.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
