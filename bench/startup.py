"""How long a command takes to answer: --help, a wrong setting, select and report.

`python -m bench.startup` (2 minutes) writes results/startup.json and .md. Each row is the median of
five processes, from their start to their end; of the report, to the line that says where it is. A
study of one tiny trial is trained first, for select and report. `--beside FOLDER`, a checkout of
another commit, measures that one too, which takes longer. The last row is `import torch` in the
same run, to compare the others with.
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
HERE = Path(__file__).resolve().parent.parent
TIMES = 5
THERE = "to open in a browser"  # the report is written; what follows is logging it to MLflow
QUICK, FINISHED = 1.5, 3.0  # seconds that were wanted, of an answer and of a study's page
STUDY = ["study.name=small", "training.max_steps=2", "probes=small", "probes.steps=1",
         "scores.baseline=1"]  # fmt: skip


def median(arguments: list[str], checkout: Path) -> list[float]:
    """Seconds on the clock and of processor time that a Python process takes to its end, whatever
    its exit code; where it prints that a report is there, to that line."""
    clock, processor = [], []
    for _ in range(TIMES):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=checkout, text=True,
        )  # fmt: skip
        assert process.stdout
        answered = [time.perf_counter() for line in process.stdout if THERE in line]
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        clock.append((answered or [time.perf_counter()])[0] - began)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [round(statistics.median(found), 2) for found in (clock, processor)]


def measured(root: Path, checkout: Path) -> dict[str, list[float]]:
    """Command -> seconds on the clock and of the processor, with the program of a checkout."""
    sweep = [sys.executable, "-m", "sweeper", f"study.root={root}", *STUDY]
    subprocess.run(sweep, check=True, capture_output=True, cwd=checkout)
    lines = {
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
    return {name: median(line, checkout) for name, line in lines.items()}


def wanted(name: str) -> float | None:
    """The seconds that a row may take; None: it is there to compare with."""
    if name == "import torch":
        return None
    return FINISHED if name.startswith(("sweeper.select", "sweeper.report")) else QUICK


def table(seconds: dict[str, list[float]], before: dict[str, list[float]]) -> str:
    """The rows as Markdown."""
    lines = ["| python -m | seconds | of processor time | wanted | before | of processor time |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, (clock, processor) in seconds.items():
        limit, then = wanted(name), before.get(name)
        told = ["", ""] if then is None else [f"{figure:.2f}" for figure in then]
        lines.append(
            f"| {name} | {clock:.2f} | {processor:.2f} | {'' if limit is None else limit} "
            f"| {' | '.join(told)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--beside", type=Path, help="a checkout of another commit")
    other = parser.parse_args().beside
    with tempfile.TemporaryDirectory() as folder:
        seconds = measured(Path(folder) / "now", HERE)
        before = measured(Path(folder) / "before", other) if other else {}
    found = {"seconds": seconds, "before": before}
    (RESULTS / "startup.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "startup.md").write_text(table(seconds, before))
    print(table(seconds, before))


if __name__ == "__main__":
    main()
