"""What the checks of files from outside cost: their share of a sweep's time and of a report's.

`python -m bench.gate` (5 minutes) writes results/gate.json and .md. It runs the default sweep, a
selection and a report, each in a process of its own in which every function of the modules that
guard against foreign files is timed. Their share is an upper bound of what these checks added: the
files had to be read before, too. `--beside FOLDER`, a checkout of another commit, also measures
that one's processes, alternating with this one's.
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
GUARDS = ("train.files.untrusted", "train.files.permissions", "sweeper.study_folder")
TIMES = 5  # of select and report
SWEEP = ["sweeper", "-m", "study.name=gated"]
QUICK = (["sweeper.select", "study=gated"], ["sweeper.report", "study=gated"])
# runs a command with the guards' functions timed, the outermost call alone, and says the sum
TIMED = """
import atexit, functools, importlib, json, runpy, sys, time, types

spent, calls, inside = 0.0, 0, False


def timed(function):
    @functools.wraps(function)
    def wrapper(*arguments, **named):
        global spent, calls, inside
        if inside:
            return function(*arguments, **named)
        inside, began = True, time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent, inside, calls = spent + time.perf_counter() - began, False, calls + 1

    return wrapper


for name in json.loads(sys.argv[1]):
    module = importlib.import_module(name)
    for key, value in list(vars(module).items()):
        if isinstance(value, types.FunctionType) and value.__module__ == name:
            setattr(module, key, timed(value))
began = time.perf_counter()
atexit.register(
    lambda: print("GUARDS", spent, calls, time.perf_counter() - began, file=sys.stderr, flush=True)
)
module, sys.argv = sys.argv[2], sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def guarded(command: list[str], root: list[str]) -> tuple[float, int, float]:
    """Seconds in the guards, calls of them, and seconds of the command without its start."""
    line = [sys.executable, "-c", TIMED, json.dumps(GUARDS), *command, *root]
    done = subprocess.run(line, cwd=HERE, capture_output=True, text=True, check=True)
    _, spent, calls, total = next(
        words.split() for words in done.stderr.splitlines() if words.startswith("GUARDS ")
    )
    return float(spent), int(calls), float(total)


def seconds(command: list[str], root: list[str], checkout: Path) -> float:
    """How long a command of a checkout takes, on the clock."""
    began = time.perf_counter()
    line = [sys.executable, "-m", *command, *root]
    subprocess.run(line, cwd=checkout, capture_output=True, check=True)
    return time.perf_counter() - began


def measured(folder: Path, other: Path | None) -> list[dict[str, object]]:
    """A row for each command."""
    here = guarded(SWEEP, [f"study.root={folder / 'now'}"])
    rows: list[dict[str, object]] = [row(SWEEP, *here)]
    if other:
        seconds(SWEEP, [f"study.root={folder / 'other'}"], other)
    for command in QUICK:
        own = [guarded(command, [f"root={folder / 'now'}"]) for _ in range(TIMES)]
        found = row(command, *(statistics.median(column) for column in zip(*own, strict=True)))
        if other:
            pairs = [
                (seconds(command, [f"root={folder / 'now'}"], HERE),
                 seconds(command, [f"root={folder / 'other'}"], other))
                for _ in range(TIMES)
            ]  # fmt: skip
            now, then = (statistics.median(column) for column in zip(*pairs, strict=True))
            found |= {"whole": round(now, 2), "whole_beside": round(then, 2)}
        rows.append(found)
    return rows


def row(command: list[str], spent: float, calls: float, total: float) -> dict[str, object]:
    """What was measured of a command."""
    return {
        "command": " ".join(command),
        "seconds": round(total, 2),
        "guards": round(spent, 4),
        "calls": int(calls),
        "share": round(spent / total, 5),
    }


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| python -m | seconds | in the guards | calls | share | process | other commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        lines.append(
            f"| {one['command']} | {one['seconds']} | {one['guards']} | {one['calls']} "
            f"| {100 * float(str(one['share'])):.2f} % | {one.get('whole', '')} "
            f"| {one.get('whole_beside', '')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--beside", type=Path, help="a checkout of another commit")
    other = parser.parse_args().beside
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), other)
    (RESULTS / "gate.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "gate.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
