"""Cost of the checks of untrusted files, as a share of the time of sweep, select and report.

`python -m bench.gate` (5 minutes) writes results/gate.json and .md. It runs the default sweep, a
selection and a report, each in its own process, in which every function of the modules that check
untrusted files is timed. The share is an upper bound for the cost of the checks, because without
them the files must be read too. `--beside FOLDER` also measures the processes of a checkout of
another commit, in alternation with this one's.
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
CHECKOUT = Path(__file__).resolve().parent.parent
GUARD_MODULES = ("train.files.untrusted", "train.files.permissions", "sweeper.study_folder")
REPETITIONS = 5  # of select and report
SWEEP = ["sweeper", "-m", "study.name=gated"]
STUDY_COMMANDS = (["sweeper.select", "study=gated"], ["sweeper.report", "study=gated"])
# Runs a command, times the outermost calls of the guards' functions, and prints their total.
TIMER_SCRIPT = """
import atexit, functools, importlib, json, runpy, sys, time, types

total, calls, inside = 0.0, 0, False


def timed(function):
    @functools.wraps(function)
    def wrapper(*arguments, **named):
        global total, calls, inside
        if inside:
            return function(*arguments, **named)
        inside, began = True, time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            total, inside, calls = total + time.perf_counter() - began, False, calls + 1

    return wrapper


for name in json.loads(sys.argv[1]):
    module = importlib.import_module(name)
    for key, value in list(vars(module).items()):
        if isinstance(value, types.FunctionType) and value.__module__ == name:
            setattr(module, key, timed(value))
began = time.perf_counter()
atexit.register(
    lambda: print("GUARDS", total, calls, time.perf_counter() - began, file=sys.stderr, flush=True)
)
module, sys.argv = sys.argv[2], sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def time_guards(command: list[str], root: list[str]) -> tuple[float, int, float]:
    """Returns seconds in guards, number of guard calls, and total seconds without imports."""
    line = [sys.executable, "-c", TIMER_SCRIPT, json.dumps(GUARD_MODULES), *command, *root]
    process = subprocess.run(line, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    _, in_guards, calls, total = next(
        words.split() for words in process.stderr.splitlines() if words.startswith("GUARDS ")
    )
    return float(in_guards), int(calls), float(total)


def time_command(command: list[str], root: list[str], checkout: Path) -> float:
    """Returns the wall-clock seconds of a command, run with the code of a checkout."""
    began = time.perf_counter()
    line = [sys.executable, "-m", *command, *root]
    subprocess.run(line, cwd=checkout, capture_output=True, check=True)
    return time.perf_counter() - began


def measure_commands(folder: Path, other: Path | None) -> list[dict[str, object]]:
    """Returns a row for each command; `other`: a checkout to compare with."""
    timings = time_guards(SWEEP, [f"study.root={folder / 'now'}"])
    rows: list[dict[str, object]] = [make_row(SWEEP, *timings)]
    if other:
        time_command(SWEEP, [f"study.root={folder / 'other'}"], other)
    for command in STUDY_COMMANDS:
        repeated = [time_guards(command, [f"root={folder / 'now'}"]) for _ in range(REPETITIONS)]
        row = make_row(command, *map(statistics.median, zip(*repeated, strict=True)))
        if other:
            pairs = [
                (time_command(command, [f"root={folder / 'now'}"], CHECKOUT),
                 time_command(command, [f"root={folder / 'other'}"], other))
                for _ in range(REPETITIONS)
            ]  # fmt: skip
            here, there = map(statistics.median, zip(*pairs, strict=True))
            row |= {"whole": round(here, 2), "whole_beside": round(there, 2)}
        rows.append(row)
    return rows


def make_row(command: list[str], in_guards: float, calls: float, total: float) -> dict[str, object]:
    """Returns the measurements of a command as a row of gate.json."""
    return {
        "command": " ".join(command),
        "seconds": round(total, 2),
        "guards": round(in_guards, 4),
        "calls": int(calls),
        "share": round(in_guards / total, 5),
    }


def table(rows: list[dict[str, object]]) -> str:
    """Formats the rows as Markdown."""
    lines = [
        "# Cost of the checks of untrusted files",
        "",
        "Guards: the functions that check these files (`python -m bench.gate`).",
        "",
        "| python -m | seconds | in guards | guard calls | share "
        "| whole process | of other commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['command']} | {row['seconds']} | {row['guards']} | {row['calls']} "
            f"| {100 * float(str(row['share'])):.2f}% | {row.get('whole', '')} "
            f"| {row.get('whole_beside', '')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the benchmark, writes results/gate.json and .md, and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--beside", type=Path, help="also measure this checkout of another commit")
    other = parser.parse_args().beside
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_commands(Path(folder), other)
    (RESULTS / "gate.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "gate.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
