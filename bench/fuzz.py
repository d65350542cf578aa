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
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).resolve().parents[1]
CASES, WORKERS, SEED = 50_000, 2, 0
GONE = 45.0  # seconds after which a worker that is asked is taken for stuck
FINE = ("loaded", "refused")
WRONG = ("traceback", "hang", "canary", "memory", "died")
HEADINGS = ("cases", "loaded", "refused in one line", "tracebacks", "hangs", "canaries", "too much memory", "crashes",
            "peak MB", "slowest s")  # fmt: skip
ENDING = {".safetensors", ".json", ".yaml", ".toml", ".png", ".jpg", ".pt", ".journal", ".txt"}
Outcome = dict[str, Any]


class Process:
    """A worker, started anew where it died or was stuck."""

    def __init__(self, made: Path, root: Path, seed: int, seeds: list[Path], errors: Path) -> None:
        self.arguments = [str(made), str(root), str(seed), *map(str, seeds)]
        self.errors = errors
        self.start()

    def start(self) -> None:
        """Begins, and waits until it has imported everything."""
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "bench.fuzzing.worker", *self.arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT,
                env={**os.environ, **threads, "PYTHONHASHSEED": "0"},
            )  # fmt: skip
        if (said := self._line(300)) != "ready":
            raise RuntimeError(f"a worker does not start ({said!r}); see {self.errors}")

    def run(self, name: str, number: int) -> Outcome:
        """How a case ended, even where the process did not live through it."""
        assert self.process.stdin
        began = time.perf_counter()
        self.process.stdin.write(f"{name} {number}\n".encode())
        self.process.stdin.flush()
        if line := self._line(GONE):
            outcome: Outcome = json.loads(line)
            return outcome
        stuck = self.process.poll() is None
        self.process.kill()
        code = self.process.wait()
        self.start()
        return {"reader": name, "number": number, "kind": "hang" if stuck else "died", "problems": [], "peak": 0,
                "words": "stuck" if stuck else f"exit code {code}",
                "seconds": time.perf_counter() - began}  # fmt: skip

    def end(self) -> None:
        """Nothing more is asked."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _line(self, seconds: float) -> str:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline().decode().strip() if ready else ""


def plan(cases: int) -> Iterator[tuple[str, int]]:
    """Which reader has how many of the cases, in turn."""
    from bench.fuzzing.cases import READERS  # torch and all

    whole = sum(reader.weight for reader in READERS.values())
    for number in range(cases):
        for name, reader in READERS.items():
            if number < max(1, round(cases * reader.weight / whole)):
                yield name, number


def run(cases: list[tuple[str, int]], workers: int, seed: int, seeds: list[Path], root: Path) -> list[Outcome]:
    """All the cases, shared by some processes."""
    waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    outcomes: list[Outcome] = []

    def work(index: int) -> None:
        process = Process(root / "good", root / f"worker{index}", seed, seeds, root / "errors.txt")
        while True:
            try:
                name, number = waiting.get_nowait()
            except queue.Empty:
                break
            outcomes.append(outcome := process.run(name, number))
            if outcome["kind"] not in FINE:
                print(f"{name}:{number} {outcome['kind']}: {outcome['words'][:300]}", file=sys.stderr)
        process.end()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(outcomes) < len(cases):
        raise RuntimeError(f"only {len(outcomes)} of {len(cases)} cases were run")
    return outcomes


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
        name: {"cases": sum(counted.values()), **{kind: counted[kind] for kind in (*FINE, *WRONG)},
               "peak MB": round(peaks[name] / 1e6), "slowest s": round(slowest[name], 1)}
        for name, counted in sorted(kinds.items())
    }  # fmt: skip


def table(found: dict[str, dict[str, Any]], seed: int) -> str:
    """The counts as Markdown."""
    lines = ["# Mutated files, reader by reader", "",
             f"`python -m bench.fuzz`, seed {seed}: good files with something wrong in them, read as the commands "
             "read them. A canary is code that ran or was imported, a file written or read where it must not be, "
             "a program, the network, a secret that was told, a setting that no file decides, or a code that a "
             "terminal acts on. Peak memory is above what the process has after its imports.", "",
             f"| reader | {' | '.join(HEADINGS)} |", f"|{'---|' * (len(HEADINGS) + 1)}"]  # fmt: skip
    rows = {**found, "all": {key: (max if key.startswith(("peak", "slow")) else sum)(row[key] for row in found.values())
                             for key in next(iter(found.values()))}}  # fmt: skip
    lines += [f"| {name} | {' | '.join(str(value) for value in row.values())} |" for name, row in rows.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the cases, writes results/fuzz.json and .md, and prints the table; or one case alone."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    seed, folder = int(given.get("seed", SEED)), given.get("seeds")
    seeds = sorted(f for f in Path(folder).rglob("*") if f.is_file() and f.suffix in ENDING) if folder else []
    if "case" in given:
        alone(given["case"], seed, seeds)
        return
    readers = given.get("readers", "").split(",")
    cases = [case for case in plan(int(given.get("cases", CASES))) if readers == [""] or case[0] in readers]
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        outcomes = run(cases, int(given.get("workers", WORKERS)), seed, seeds, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    found = counts(outcomes)
    wrong = [o for o in outcomes if o["kind"] not in FINE]
    into = Path(given.get("into", RESULTS))
    content = {"seed": seed, "cases": len(cases), "readers": found, "wrong": wrong}
    (into / "fuzz.json").write_text(json.dumps(content, indent=1) + "\n")
    (into / "fuzz.md").write_text(table(found, seed))
    print(table(found, seed))
    sys.exit(1 if wrong else 0)


def alone(case: str, seed: int, seeds: list[Path]) -> None:
    """One case: its input stays in a folder, and what happens is shown in full."""
    from bench.fuzzing.worker import Worker  # torch and all

    name, number = case.rsplit(":", 1)
    root = Path("fuzz-case").resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    worker = Worker(root / "good", root, seed, seeds)
    worker.alone(name, int(number))


if __name__ == "__main__":
    main()
