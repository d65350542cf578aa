"""How long a command takes to answer: --help, a wrong setting, select and report.

`python -m bench.startup` (2 minutes) writes results/startup.json and .md. Each row is the median of
five processes, measured from their start; a study of one tiny trial is trained first, for select
and report. `--beside FOLDER`, a checkout of another commit, measures that one too. The last row is
`import torch` in the same run, to compare the others with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
HERE = Path(__file__).resolve().parent.parent
TIMES = 5
QUICK, FINISHED = 1.5, 3.0  # seconds that were wanted, of an answer and of a study's page
STUDY = ["study.name=small", "training.max_steps=2", "probes=small", "probes.steps=1",
         "scores.baseline=1"]  # fmt: skip


def median(arguments: list[str], checkout: Path) -> float:
    """Seconds of wall-clock time that a Python process takes, whatever its exit code."""
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=False, cwd=checkout)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measured(root: Path, checkout: Path) -> dict[str, float]:
    """Command -> seconds, with the program of a checkout."""
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
    return {name: round(median(line, checkout), 2) for name, line in lines.items()}


def wanted(name: str) -> float | None:
    """The seconds that a row may take; None: it is there to compare with."""
    if name == "import torch":
        return None
    return FINISHED if name.startswith(("sweeper.select", "sweeper.report")) else QUICK


def table(seconds: dict[str, float], before: dict[str, float]) -> str:
    """The rows as Markdown."""
    lines = ["| python -m | seconds | wanted | before |", "|---|---|---|---|"]
    for name, found in seconds.items():
        limit, then = wanted(name), before.get(name)
        lines.append(
            f"| {name} | {found:.2f} | {'' if limit is None else limit} "
            f"| {'' if then is None else f'{then:.2f}'} |"
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
