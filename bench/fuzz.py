"""Mutated files of strangers for every reader: what becomes of them, counted.

`python -m bench.fuzz` (50,000 cases, 60 minutes on 2 cores) begins with good files that it makes
from the embedded base, changes each in some places, has it read as the commands do, and watches:
code that runs, files written or read elsewhere, programs, the network, tracebacks, time, memory.

    python -m bench.fuzz cases=2000 seed=1 workers=2    other cases, fewer
    python -m bench.fuzz seeds=FOLDER                   files of one's own to begin with, too
    python -m bench.fuzz case=lora:17                   one case alone, its input kept in fuzz-case/
"""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).resolve().parents[1]
CASES, WORKERS, SEED = 50_000, 2, 0
START = 300.0  # seconds in which a worker must have imported everything
GONE = 180.0  # seconds after which a worker that is asked is taken for stuck
FINE = ("loaded", "refused")
WRONG = ("traceback", "hang", "canary", "memory", "died")
HEADINGS = (
    "cases",
    "loaded",
    "refused in one line",
    "tracebacks",
    "hangs",
    "canaries",
    "too much memory",
    "crashes",
    "peak MB",
    "slowest s",
)
ENDING = {".safetensors", ".json", ".yaml", ".toml", ".png", ".jpg", ".pt", ".journal", ".txt"}
Outcome = dict[str, Any]


class Process:
    """A worker, started anew where it died or was stuck."""

    def __init__(self, made: Path, root: Path, seed: int, seeds: Sequence[Path] = ()) -> None:
        self.arguments = [str(made), str(root), str(seed), *map(str, seeds)]
        self.errors = root.with_name(f"{root.name}-errors.txt")
        self.weights: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        """Begins, and waits until it has imported everything."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "bench.fuzzing.worker", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=quiet_environment(),
            )
        said = self._line(START)
        if not said:
            raise RuntimeError(f"a worker does not start: {self.errors.read_text()[-2000:]}")
        self.weights = json.loads(said)

    def run(self, name: str, number: int) -> Outcome:
        """How a case ended, even where the process did not live through it."""
        assert self.process.stdin
        began = time.perf_counter()
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{name} {number}\n".encode())
            self.process.stdin.flush()
        if line := self._line(GONE):
            outcome: Outcome = json.loads(line)
            return outcome
        code = self._ended()
        stuck = code is None
        self.start()
        return {
            "reader": name,
            "number": number,
            "kind": "hang" if stuck else "died",
            "problems": [],
            "peak": 0,
            "words": "stuck" if stuck else f"exit code {code}",
            "seconds": time.perf_counter() - began,
        }

    def end(self) -> None:
        """Nothing more is asked."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _ended(self) -> int | None:
        """The exit code of a process that has died; None of one that is stuck, and ended now."""
        try:
            return self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def _line(self, seconds: float) -> str:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline().decode().strip() if ready else ""


def quiet_environment() -> dict[str, str]:
    """That of a worker: a core for each, and the same order of everything."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONHASHSEED": "0"}


def plan(cases: int, weights: Mapping[str, int]) -> list[tuple[str, int]]:
    """The cases, each reader's first before anyone's second; shares go by weight."""
    whole = sum(weights.values())
    shares = {name: max(1, round(cases * weight / whole)) for name, weight in weights.items()}
    return [(name, number) for number in range(cases) for name in shares if number < shares[name]]


def run(
    cases: int, workers: int, seed: int, seeds: Sequence[Path], root: Path, only: Sequence[str] = ()
) -> list[Outcome]:
    """All the cases, shared by some processes.

    Args:
        seeds: more files to begin with.
        root: an empty folder to work in.
        only: the readers that are meant; none: all.
    """
    with ThreadPoolExecutor(workers) as threads:
        places = [root / f"worker{index}" for index in range(workers)]
        processes = list(
            threads.map(lambda place: Process(root / "good", place, seed, seeds), places)
        )
        planned = [
            case for case in plan(cases, processes[0].weights) if not only or case[0] in only
        ]
        waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        for case in planned:
            waiting.put(case)

        def work(process: Process) -> list[Outcome]:
            outcomes = []
            while not waiting.empty():
                with suppress(queue.Empty):
                    outcomes.append(outcome := process.run(*waiting.get_nowait()))
                    if outcome["kind"] not in FINE:
                        print(line_of(outcome), file=sys.stderr, flush=True)
            process.end()
            return outcomes

        return [outcome for outcomes in threads.map(work, processes) for outcome in outcomes]


def line_of(outcome: Outcome) -> str:
    """A case that went wrong, and what repeats it."""
    case = f"case={outcome['reader']}:{outcome['number']}"
    problems = "; ".join(outcome["problems"])
    return f"python -m bench.fuzz '{case}': {outcome['kind']}: {outcome['words']} {problems}"


def counts(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    """Reader -> how its cases ended."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    peaks: dict[str, int] = defaultdict(int)
    slowest: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        name = outcome["reader"]
        kinds[name][outcome["kind"]] += 1
        peaks[name] = max(peaks[name], outcome["peak"])
        slowest[name] = max(slowest[name], outcome["seconds"])
    return {
        name: {
            "cases": sum(counted.values()),
            **{kind: counted[kind] for kind in (*FINE, *WRONG)},
            "peak MB": round(peaks[name] / 1e6),
            "slowest s": round(slowest[name], 1),
        }
        for name, counted in sorted(kinds.items())
    }


def table(found: dict[str, dict[str, Any]], seed: int) -> str:
    """The counts as Markdown."""
    lines = [
        "# Mutated files, reader by reader",
        "",
        f"`python -m bench.fuzz`, seed {seed}: good files with something wrong in them, read as "
        "the commands read them. A canary is code that ran or was imported, a file written or read "
        "where it must not be, a program, the network, a secret that was told, a setting that no "
        "file decides, or a code that a terminal acts on. Peak memory is above what the process "
        "has after its imports.",
        "",
        f"| reader | {' | '.join(HEADINGS)} |",
        f"|{'---|' * (len(HEADINGS) + 1)}",
    ]
    rows = {
        **found,
        "all": {
            key: (max if key.startswith(("peak", "slow")) else sum)(
                row[key] for row in found.values()
            )
            for key in next(iter(found.values()))
        },
    }
    lines += [
        f"| {name} | {' | '.join(str(value) for value in row.values())} |"
        for name, row in rows.items()
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the cases, writes results/fuzz.json and .md, and prints the table; or one case alone."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    seed, folder = int(given.get("seed", SEED)), given.get("seeds")
    seeds = sorted(Path(folder).rglob("*")) if folder else []
    seeds = [file for file in seeds if file.is_file() and file.suffix in ENDING]
    if "case" in given:
        alone(given["case"], seed, seeds)
        return
    only = [name for name in given.get("readers", "").split(",") if name]
    cases, workers = int(given.get("cases", CASES)), int(given.get("workers", WORKERS))
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        outcomes = run(cases, workers, seed, seeds, root, only)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    found = counts(outcomes)
    wrong = [o for o in outcomes if o["kind"] not in FINE]
    into = Path(given.get("into", RESULTS))
    content = {"seed": seed, "cases": len(outcomes), "readers": found, "wrong": wrong}
    (into / "fuzz.json").write_text(json.dumps(content, indent=1) + "\n")
    (into / "fuzz.md").write_text(table(found, seed))
    print(table(found, seed))
    sys.exit(1 if wrong else 0)


def alone(case: str, seed: int, seeds: list[Path]) -> None:
    """One case: its input stays in a folder, and what happens is shown in full."""
    name, number = case.rsplit(":", 1)
    root = Path("fuzz-case").resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    arguments = [str(root / "good"), str(root / "worker"), str(seed), *map(str, seeds)]
    code = f"from bench.fuzzing.worker import show; show({name!r}, {int(number)})"
    sys.exit(
        subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, env=quiet_environment()
        ).returncode
    )


if __name__ == "__main__":
    main()
