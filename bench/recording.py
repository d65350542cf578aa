"""What recording a sweep costs: the time in which training waits for it, and the thread beside it.

`python -m bench.recording [overrides]` (5 minutes on 2 cores): the default sweep, with a watch on
everything that writes, logs or prints.
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
WATCHED = {
    TrialRecord: ("add", "save"),
    MlflowMirror: ("begin", "mirror", "flush", "finalize"),
    Progress: ("began", "scored", "ended"),
    Scorer: ("sheet", "base_sheet"),
}
TRIALS, BESIDE = "all trials, from the first to the last", "the thread beside, computing"


class Watch:
    """Seconds by what they were spent on; a call within a watched call is the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.computing = 0.0  # of them
        self._within = False

    def on(self, owner: Any, name: str) -> None:
        """From now on every call counts."""
        plain = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            if self._within:
                return plain(*arguments, **options)
            self._within, began, computed = True, time.perf_counter(), time.thread_time()
            try:
                return plain(*arguments, **options)
            finally:
                self._within = False
                self.computing += time.thread_time() - computed
                self.seconds[f"{owner.__name__}.{name}"] += time.perf_counter() - began

        setattr(owner, name, watched)

    def on_background(self) -> None:
        """Counts what the thread beside computes: while it waits for a disk it costs nothing."""
        plain = BackgroundThread.submit

        def counted(action: Callable[[], None]) -> None:
            began = time.thread_time()
            try:
                action()
            finally:
                self.seconds[BESIDE] += time.thread_time() - began

        def submit(background: BackgroundThread, action: Callable[[], None]) -> None:
            plain(background, partial(counted, action))

        BackgroundThread.submit = submit  # type: ignore[assignment, method-assign]


def sweep(root: Path, overrides: list[str]) -> dict[str, Any]:
    """Runs the sweep in this process; its seconds by what they were spent on."""
    watch, plain = Watch(), driver.run_trials
    for owner, names in WATCHED.items():
        for name in names:
            watch.on(owner, name)
    watch.on_background()

    def run_trials(*arguments: Any) -> None:
        began = time.perf_counter()
        plain(*arguments)
        watch.seconds[TRIALS] += time.perf_counter() - began

    driver.run_trials = run_trials  # type: ignore[assignment]
    line = ["-m", f"study.root={root}", "study.name=recorded", *overrides]
    sys.argv = ["sweeper", *line]
    began, computed = time.perf_counter(), time.process_time()
    run("sweep", SweepConfig, check_sweep, "sweeper.execution.single_trial:run", is_active)
    whole, computing = time.perf_counter() - began, time.process_time() - computed
    epochs = [epoch for r in load_records(root / "studies" / "recorded") for epoch in r.epochs]
    waited = {k: v for k, v in watch.seconds.items() if k not in (TRIALS, BESIDE)}
    return {
        "epochs": len(epochs),
        "whole command": whole,
        TRIALS: watch.seconds[TRIALS],
        "training and scoring": sum(epoch.seconds for epoch in epochs),
        "recording, waited for": sum(waited.values()),
        BESIDE: watch.seconds[BESIDE],
        "the whole command, computing": computing,
        "recording, computing": watch.computing,
        "by call": dict(sorted(waited.items(), key=lambda item: -item[1])),
    }


def table(found: dict[str, Any]) -> str:
    """The seconds, and their shares of the command's."""
    whole, trials, work = found["whole command"], found[TRIALS], found["training and scoring"]
    rows = {
        "the whole command": whole,
        TRIALS: trials,
        "training and scoring": work,
        "all else between the first trial and the last": trials - work,
        "recording, for which training waits": found["recording, waited for"],
    }
    computing = found["the whole command, computing"]
    busy = {name: found[name] for name in ("recording, computing", BESIDE)}
    lines = ["# What recording costs", "",
             f"A sweep with {found['epochs']} scored epochs (`python -m bench.recording`)."
             " Recording is all that draws sheets, writes records, hands over to MLflow or prints.",
             "", "| | seconds | share of the command |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {s:.2f} | {100 * s / whole:.2f} % |" for name, s in rows.items()]
    lines += ["", "The same in processor time, which other programs do not lengthen:",
              "", "| | seconds | share |", "|---|---|---|",
              f"| the whole command | {computing:.2f} | 100 % |"]  # fmt: skip
    lines += [f"| {name} | {s:.2f} | {100 * s / computing:.2f} % |" for name, s in busy.items()]
    lines += ["", "| a call | seconds, all of them | milliseconds an epoch |", "|---|---|---|"]
    lines += [f"| `{name}` | {s:.2f} | {1000 * s / found['epochs']:.1f} |"
              for name, s in found["by call"].items()]  # fmt: skip
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs it, writes results/recording.json and .md, and prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = sys.argv[1:]
        given = [word for word in overrides if word.startswith("study.root=")]
        root = Path(given[-1].split("=", 1)[1] if given else folder)
        found = sweep(root, [word for word in overrides if word not in given])
    (RESULTS / "recording.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "recording.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
