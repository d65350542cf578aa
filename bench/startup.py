"""How long commands take to respond: --help, a wrong setting, select and report.

`python -m bench.startup` (2 minutes) writes results/startup.json and .md. Each row is the median of
five processes, from start to exit, or for the report to the line that names its file. A study with
one tiny trial is trained first, for select and report. `--beside FOLDER` also measures a checkout
of another commit. The last row, `import torch` in the same run, is for comparison.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
CHECKOUT = Path(__file__).resolve().parent.parent
REPETITIONS = 5
# printed when the report is written, before it is logged to MLflow
REPORT_WRITTEN = "to open in a browser"
MAX_RESPONSE_SECONDS = 1.5
MAX_STUDY_SECONDS = 3.0  # of select and report
STUDY = ["study.name=small", "training.max_steps=2", "probes=small", "probes.steps=1",
         "scores.baseline=1"]  # fmt: skip


def median_seconds(arguments: list[str], checkout: Path) -> list[float]:
    """Returns the median wall-clock and CPU seconds of a Python process, whatever its exit code.

    The clock stops when the process exits or prints REPORT_WRITTEN.
    """
    wall, cpu = [], []
    for _ in range(REPETITIONS):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=checkout, text=True,
        )  # fmt: skip
        assert process.stdout
        written = [time.perf_counter() for line in process.stdout if REPORT_WRITTEN in line]
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append((written or [time.perf_counter()])[0] - began)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [round(statistics.median(seconds), 2) for seconds in (wall, cpu)]


def measure_commands(root: Path, checkout: Path) -> dict[str, list[float]]:
    """Returns wall-clock and CPU seconds of each command, run with the code of a checkout."""
    sweep = [sys.executable, "-m", "sweeper", f"study.root={root}", *STUDY]
    subprocess.run(sweep, check=True, capture_output=True, cwd=checkout)
    commands = {
        "sweeper --help": ["-m", "sweeper", "--help"],
        "sweeper epochs=3": ["-m", "sweeper", "epochs=3"],
        "sweeper optimizer.lr=fast": ["-m", "sweeper", "optimizer.lr=fast"],
        "train --help": ["-m", "train", "--help"],
        "train network.rank=0": ["-m", "train", "network.rank=0"],
        "evaluate --help": ["-m", "evaluate", "--help"],
        "sweeper.reproduce --help": ["-m", "sweeper.reproduce", "--help"],
        "sweeper.select study=small": ["-m", "sweeper.select", "study=small", f"root={root}"],
        "sweeper.report study=small": ["-m", "sweeper.report", "study=small", f"root={root}"],
        "import torch": ["-c", "import torch"],
    }
    return {name: median_seconds(command, checkout) for name, command in commands.items()}


def max_seconds(name: str) -> float | None:
    """Returns the target of a row in seconds, or None for `import torch`."""
    if name == "import torch":
        return None
    reads_study = name.startswith(("sweeper.select", "sweeper.report"))
    return MAX_STUDY_SECONDS if reads_study else MAX_RESPONSE_SECONDS


def table(seconds: dict[str, list[float]], before: dict[str, list[float]]) -> str:
    """Formats the rows as Markdown; `before` is another checkout's, or empty."""
    lines = ["# How long commands take to respond", "",
             f"Median of {REPETITIONS} processes (`python -m bench.startup`). The targets are"
             " wall-clock seconds.", "",
             "| python -m | seconds | CPU seconds | target | before | CPU seconds before |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, (wall, cpu) in seconds.items():
        target = max_seconds(name)
        earlier = [f"{value:.2f}" for value in before.get(name, ())] or ["", ""]
        lines.append(
            f"| {name} | {wall:.2f} | {cpu:.2f} | {'' if target is None else target} "
            f"| {' | '.join(earlier)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the benchmark, writes results/startup.json and .md, and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--beside", type=Path, help="also measure this checkout of another commit")
    other = parser.parse_args().beside
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure_commands(Path(folder) / "now", CHECKOUT)
        before = measure_commands(Path(folder) / "before", other) if other else {}
    report = {"seconds": seconds, "before": before}
    (RESULTS / "startup.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "startup.md").write_text(table(seconds, before))
    print(table(seconds, before))


if __name__ == "__main__":
    main()
