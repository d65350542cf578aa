"""Fuzzing: reads mutated files with every reader of untrusted files, and counts the outcomes.

`python -m bench.fuzz` (50,000 cases, 20 minutes on 2 cores) builds a corpus of valid files from the
embedded base, mutates them, reads them as the commands do, and detects executed code, files written
or read elsewhere, started programs, network access, tracebacks, hangs and too much memory.

    python -m bench.fuzz cases=2000 seed=1 workers=2    fewer cases, another seed
    python -m bench.fuzz seeds=FOLDER                   additional files to mutate
    python -m bench.fuzz case=lora:17                   a single case; keeps its input in fuzz-case/
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
START_TIMEOUT = 300.0  # seconds for a worker to import everything
CASE_TIMEOUT = 180.0  # seconds after which a worker without a response counts as stuck
PASSED_KINDS = ("loaded", "refused")
FAILED_KINDS = ("traceback", "hang", "canary", "memory", "died")
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
SEED_SUFFIXES = {
    ".safetensors",
    ".json",
    ".yaml",
    ".toml",
    ".png",
    ".jpg",
    ".pt",
    ".journal",
    ".txt",
}
Outcome = dict[str, Any]


class WorkerProcess:
    """A worker process, which is restarted when it dies or is stuck."""

    def __init__(self, corpus: Path, root: Path, seed: int, seeds: Sequence[Path] = ()) -> None:
        self.arguments = [str(corpus), str(root), str(seed), *map(str, seeds)]
        self.errors = root.with_name(f"{root.name}-errors.txt")
        self.weights: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        """Starts the process, and waits until it has imported everything."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "bench.fuzzing.worker", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=worker_environment(),
            )
        weights = self._read_line(START_TIMEOUT)
        if not weights:
            raise RuntimeError(f"a worker did not start: {self.errors.read_text()[-2000:]}")
        self.weights = json.loads(weights)

    def run(self, name: str, number: int) -> Outcome:
        """Runs a case, and returns its outcome even if the process dies."""
        assert self.process.stdin
        began = time.perf_counter()
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{name} {number}\n".encode())
            self.process.stdin.flush()
        if line := self._read_line(CASE_TIMEOUT):
            outcome: Outcome = json.loads(line)
            return outcome
        code = self._exit_code()
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
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _exit_code(self) -> int | None:
        """Returns the exit code of a dead process; kills a stuck one and returns None."""
        try:
            return self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def _read_line(self, seconds: float) -> str:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline().decode().strip() if ready else ""


def worker_environment() -> dict[str, str]:
    """Returns the environment of a worker: one thread, and deterministic hashes."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONHASHSEED": "0"}


def plan_cases(cases: int, weights: Mapping[str, int]) -> list[tuple[str, int]]:
    """Returns reader and number of each case, readers alternating, in proportion to the weights."""
    total = sum(weights.values())
    shares = {name: max(1, round(cases * weight / total)) for name, weight in weights.items()}
    return [(name, number) for number in range(cases) for name in shares if number < shares[name]]


def run(
    cases: int, workers: int, seed: int, seeds: Sequence[Path], root: Path, only: Sequence[str] = ()
) -> list[Outcome]:
    """Runs cases in several worker processes.

    Args:
        seeds: additional files to mutate.
        root: an empty folder to work in.
        only: names of readers to run; empty means all.
    """
    with ThreadPoolExecutor(workers) as threads:
        folders = [root / f"worker{index}" for index in range(workers)]
        processes = list(
            threads.map(lambda folder: WorkerProcess(root / "corpus", folder, seed, seeds), folders)
        )
        planned = [
            case for case in plan_cases(cases, processes[0].weights) if not only or case[0] in only
        ]
        waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        for case in planned:
            waiting.put(case)

        def work(process: WorkerProcess) -> list[Outcome]:
            outcomes = []
            while not waiting.empty():
                with suppress(queue.Empty):
                    outcomes.append(outcome := process.run(*waiting.get_nowait()))
                    if outcome["kind"] not in PASSED_KINDS:
                        print(describe_failure(outcome), file=sys.stderr, flush=True)
            process.end()
            return outcomes

        return [outcome for outcomes in threads.map(work, processes) for outcome in outcomes]


def describe_failure(outcome: Outcome) -> str:
    """Returns the command that repeats a failed case, and its problems."""
    case = f"case={outcome['reader']}:{outcome['number']}"
    problems = "; ".join(outcome["problems"])
    return f"python -m bench.fuzz '{case}': {outcome['kind']}: {outcome['words']} {problems}"


def count_outcomes(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    """Returns the number of cases of each kind by reader, and their peak memory and time."""
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
            "cases": sum(counter.values()),
            **{kind: counter[kind] for kind in (*PASSED_KINDS, *FAILED_KINDS)},
            "peak MB": round(peaks[name] / 1e6),
            "slowest s": round(slowest[name], 1),
        }
        for name, counter in sorted(kinds.items())
    }


def table(counts: dict[str, dict[str, Any]], seed: int) -> str:
    """Formats the counts as Markdown."""
    lines = [
        "# Mutated files by reader",
        "",
        f"`python -m bench.fuzz`, seed {seed}: mutated files, read as the commands read them. A "
        "canary is executed or imported code, a file written or read where it must not be, a "
        "started program, network access, a leaked secret, a setting that no file may decide, or a "
        "control character that a terminal interprets. Peak memory is measured above that of "
        "the process after its imports.",
        "",
        f"| reader | {' | '.join(HEADINGS)} |",
        f"|{'---|' * (len(HEADINGS) + 1)}",
    ]
    rows = {
        **counts,
        "all": {
            key: (max if key.startswith(("peak", "slow")) else sum)(
                row[key] for row in counts.values()
            )
            for key in next(iter(counts.values()))
        },
    }
    lines += [
        f"| {name} | {' | '.join(str(value) for value in row.values())} |"
        for name, row in rows.items()
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs all cases, writes results/fuzz.json and .md and prints the table, or a single case."""
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    seed, folder = int(options.get("seed", SEED)), options.get("seeds")
    seeds = sorted(Path(folder).rglob("*")) if folder else []
    seeds = [file for file in seeds if file.is_file() and file.suffix in SEED_SUFFIXES]
    if "case" in options:
        run_single_case(options["case"], seed, seeds)
        return
    only = [name for name in options.get("readers", "").split(",") if name]
    cases, workers = int(options.get("cases", CASES)), int(options.get("workers", WORKERS))
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        outcomes = run(cases, workers, seed, seeds, root, only)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    counts = count_outcomes(outcomes)
    failures = [o for o in outcomes if o["kind"] not in PASSED_KINDS]
    results = Path(options.get("into", RESULTS))
    content = {"seed": seed, "cases": len(outcomes), "readers": counts, "wrong": failures}
    (results / "fuzz.json").write_text(json.dumps(content, indent=1) + "\n")
    (results / "fuzz.md").write_text(table(counts, seed))
    print(table(counts, seed))
    sys.exit(1 if failures else 0)


def run_single_case(case: str, seed: int, seeds: list[Path]) -> None:
    """Runs a case, keeps its input in fuzz-case/, and shows its output and traceback."""
    name, number = case.rsplit(":", 1)
    root = Path("fuzz-case").resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    arguments = [str(root / "corpus"), str(root / "worker"), str(seed), *map(str, seeds)]
    code = f"from bench.fuzzing.worker import debug_case; debug_case({name!r}, {int(number)})"
    sys.exit(
        subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, env=worker_environment()
        ).returncode
    )


if __name__ == "__main__":
    main()
