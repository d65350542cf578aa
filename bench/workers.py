"""Many workers on one study: trials per second with empty trials, and trials lost to kills.

`python -m bench.workers` (11 minutes on 2 cores) runs processes that ask, report and tell, on the
journal in the study's folder, on SQLite in WAL mode, and on its own PostgreSQL server if PostgreSQL
is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial

from sweeper.search.search_space import parse_space
from sweeper.study.storage import NO_PRUNER, open_study
from sweeper.study.study import Study
from sweeper.tracking.trial_record import COMPLETE, TrialRecord

RESULTS = Path(__file__).parent / "results"
WORKERS, TRIALS, EPOCHS = 4, 100, 3
KILLS, UNLIMITED = 15, 100_000
SPACE = ["network.rank=4,8,16,32", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]
POSTGRES = Path("/usr/lib/postgresql")
Row = dict[str, Any]


def work(folder: Path, url: str | None, trials: int) -> None:
    """Runs empty trials until the study has this many, and prints the number of each.

    It prints "ready", then begins when a line arrives on standard input.
    """
    space, _ = parse_space(SPACE, {}, OverridesParser.create())
    sampler = {"_target_": "optuna.samplers.RandomSampler"}
    study = Study(folder, {}, space, sampler, NO_PRUNER, seed=0, url=url)
    print("ready", flush=True)
    sys.stdin.readline()
    while trial := study.next_trial(trials):
        with trial:
            for epoch in range(1, EPOCHS + 1):
                trial.report(epoch, 0.5)
            fields: Any = (folder.name, trial.number, {}, [], trial.params, {})
            TrialRecord(trial.folder, *fields).end(COMPLETE)
            trial.complete([trial.params["optimizer.lr"]], {"copying": -0.1})
        print(trial.number, flush=True)


def start_workers(
    folder: Path, url: str | None, workers: int, trials: int
) -> list[subprocess.Popen[str]]:
    """Starts workers that begin at the same time; their standard output is a pipe."""
    command = [sys.executable, "-m", "bench.workers", "work", str(folder), url or "", str(trials)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(workers)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def load_trials(folder: Path, url: str | None) -> list[FrozenTrial]:
    """Returns all trials of a study."""
    return open_study(folder, NO_PRUNER, url).get_trials()


@contextmanager
def postgres(folder: Path) -> Iterator[str | None]:
    """Runs a PostgreSQL server in a folder, and yields its URL, or None if it is not installed.

    Raises:
        subprocess.CalledProcessError: it is installed, but does not start.
    """
    installations = sorted(POSTGRES.glob("*/bin")) or [
        Path(p).parent for p in [shutil.which("initdb")] if p
    ]
    if not installations:
        yield None
        return
    binaries, data = installations[-1], folder / "data"
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to run as root
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(tool: str, *arguments: str) -> None:
        subprocess.run([binaries / tool, "-D", data, *arguments], check=True, cwd=folder,
                       stdout=subprocess.DEVNULL, **user)  # type: ignore[call-overload]  # fmt: skip

    call("initdb", "-U", "lorasweep", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lorasweep@127.0.0.1:{port}/postgres"
    finally:
        with suppress(subprocess.CalledProcessError):  # it has already exited
            call("pg_ctl", "-m", "immediate", "stop")


def measure_throughput(folder: Path, url: str | None) -> float:
    """Returns trials per second, from the first one asked for to the last one told."""
    for process in start_workers(folder, url, WORKERS, TRIALS):
        if process.wait():
            raise RuntimeError("a worker failed")
    trials = load_trials(folder, url)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    began = min(t.datetime_start or datetime.max for t in trials)
    ended = max(t.datetime_complete or datetime.min for t in trials)
    return TRIALS / (ended - began).total_seconds()


def count_lost_trials(folder: Path, url: str | None) -> Row:
    """Kills all workers at random moments and starts new ones, KILLS times.

    Returns:
        The number of trials that workers had completed, and how many of these the storage lost.
    """
    completed: set[int] = set()
    random = Random(0)
    for _ in range(KILLS):
        processes = start_workers(folder, url, WORKERS, UNLIMITED)
        time.sleep(random.uniform(0.1, 1.0))
        for process in processes:
            process.kill()
        for process in processes:
            lines = process.communicate()[0].splitlines(keepends=True)
            completed |= {int(line) for line in lines if line.endswith("\n")}
    stored = {trial.number for trial in load_trials(folder, url) if trial.state.is_finished()}
    return {"ended": len(completed), "lost": len(completed - stored)}


def storage_urls(folder: Path, server: str | None) -> dict[str, str | None]:
    """Returns the URL of each storage; the journal's is None."""
    file = folder / "optuna.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # persists in the file
    urls = {"journal": None, "sqlite": f"sqlite:///{file}"}
    return urls | ({"postgresql": server} if server else {})


def table(storages: dict[str, Row]) -> str:
    """Formats the results as Markdown."""
    lines = ["# Throughput of a study with empty trials", "",
             f"{WORKERS} processes run {TRIALS} trials of {EPOCHS} reported epochs each, on one"
             " study (`python -m bench.workers`). Then all of them are killed (-9) at a random"
             f" moment and restarted, {KILLS} times. Completed: trials that a worker had reported"
             " as complete; lost: those of them that the storage does not have as complete.", "",
             "| storage | trials/s | completed despite kills | lost |",
             "|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {name} | {row['trials_a_second']:.1f} | {row['ended']} | {row['lost']} |"
        for name, row in storages.items()
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the benchmark and writes results/workers.json and .md."""
    argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__).parse_args()
    storages: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        with postgres(folder / "postgres") as server:
            for name, url in storage_urls(folder, server).items():
                storages[name] = {"trials_a_second": measure_throughput(folder / name, url)}
                storages[name] |= count_lost_trials(folder / f"{name}-killed", url)
    RESULTS.mkdir(exist_ok=True)
    report = {"workers": WORKERS, "trials": TRIALS, "killings": KILLS, "storages": storages}
    (RESULTS / "workers.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "workers.md").write_text(table(storages))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Path(sys.argv[2]), sys.argv[3] or None, int(sys.argv[4]))
    else:
        main()
