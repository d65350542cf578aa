"""Many workers on one study: how many trials a second, when a trial is nothing but its overhead;
and what is lost where they are killed again and again.

`python -m bench.workers` (11 minutes on 2 cores): processes that ask, report, and tell, on the
journal of a study's folder, on sqlite (in WAL mode), and on a PostgreSQL of its own where there
is one.
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
KILLINGS, ENDLESS = 15, 100_000
SPACE = ["network.rank=4,8,16,32", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]
POSTGRES = Path("/usr/lib/postgresql")
Row = dict[str, Any]


def work(folder: Path, url: str | None, trials: int) -> None:
    """Runs trials of a study that do nothing, until there are so many; a number a line."""
    space, _ = parse_space(SPACE, {}, OverridesParser.create())
    sampler = {"_target_": "optuna.samplers.RandomSampler"}
    study = Study(folder, {}, space, sampler, NO_PRUNER, seed=0, url=url)
    print("ready", flush=True)
    sys.stdin.readline()
    while trial := study.next_trial(trials):
        with trial:
            for epoch in range(1, EPOCHS + 1):
                trial.report(epoch, 0.5)
            about: Any = (folder.name, trial.number, {}, [], trial.params, {})
            TrialRecord(trial.folder, *about).end(COMPLETE)
            trial.complete([trial.params["optimizer.lr"]], {"copying": -0.1})
        print(trial.number, flush=True)


def start(folder: Path, url: str | None, workers: int, trials: int) -> list[subprocess.Popen[str]]:
    """Workers that have begun together, each with its standard output to read."""
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


def trials_of(folder: Path, url: str | None) -> list[FrozenTrial]:
    """All the trials of a study."""
    return open_study(folder, NO_PRUNER, url).get_trials()


@contextmanager
def postgres(folder: Path) -> Iterator[str | None]:
    """The URL of a PostgreSQL server in a folder, stopped in the end; None: there is no server.

    Raises:
        subprocess.CalledProcessError: it is there, but does not start.
    """
    found = sorted(POSTGRES.glob("*/bin")) or [
        Path(p).parent for p in [shutil.which("initdb")] if p
    ]
    if not found:
        yield None
        return
    run, data = found[-1], folder / "data"
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to be root
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(tool: str, *arguments: str) -> None:
        subprocess.run([run / tool, "-D", data, *arguments], check=True, cwd=folder,
                       stdout=subprocess.DEVNULL, **user)  # type: ignore[call-overload]  # fmt: skip

    call("initdb", "-U", "lorasweep", "-A", "trust", "--no-sync")
    where = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", where, "start")
    try:
        yield f"postgresql+psycopg://lorasweep@127.0.0.1:{port}/postgres"
    finally:
        with suppress(subprocess.CalledProcessError):  # it has ended by itself
            call("pg_ctl", "-m", "immediate", "stop")


def measure(folder: Path, url: str | None) -> float:
    """Trials a second, from the first one asked for to the last one told."""
    for process in start(folder, url, WORKERS, TRIALS):
        if process.wait():
            raise RuntimeError("a worker failed")
    trials = trials_of(folder, url)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    began = min(t.datetime_start or datetime.max for t in trials)
    ended = max(t.datetime_complete or datetime.min for t in trials)
    return TRIALS / (ended - began).total_seconds()


def killed(folder: Path, url: str | None) -> Row:
    """All workers killed at a random moment, and new ones started, again and again.

    Returns:
        how many trials workers had been told the end of, and how many of these are not complete.
    """
    told: set[int] = set()
    random = Random(0)
    for _ in range(KILLINGS):
        processes = start(folder, url, WORKERS, ENDLESS)
        time.sleep(random.uniform(0.1, 1.0))
        for process in processes:
            process.kill()
        for process in processes:
            lines = process.communicate()[0].splitlines(keepends=True)
            told |= {int(line) for line in lines if line.endswith("\n")}
    complete = {trial.number for trial in trials_of(folder, url) if trial.state.is_finished()}
    return {"ended": len(told), "lost": len(told - complete)}


def places_of(folder: Path, server: str | None) -> dict[str, str | None]:
    """The URL of each storage; None: the journal."""
    file = folder / "optuna.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # the file stays so
    places = {"journal": None, "sqlite": f"sqlite:///{file}"}
    return places | ({"postgresql": server} if server else {})


def table(found: dict[str, Row]) -> str:
    """The result, for people."""
    lines = ["# Trials that are nothing but overhead", "",
             f"{WORKERS} processes, {TRIALS} trials of {EPOCHS} reported epochs each, on one"
             " study (`python -m bench.workers`); then all of them killed (-9) at a random moment"
             f" and started again, {KILLINGS} times: trials whose worker had seen their end, and"
             " those of them that the storage does not have.", "",
             "| storage | trials/s | ended, under killings | lost |",
             "|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {name} | {row['trials_a_second']:.1f} | {row['ended']} | {row['lost']} |"
        for name, row in found.items()
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs it and writes results/workers.json and .md."""
    argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__).parse_args()
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        with postgres(folder / "postgres") as server:
            for name, url in places_of(folder, server).items():
                found[name] = {"trials_a_second": measure(folder / name, url)}
                found[name] |= killed(folder / f"{name}-killed", url)
    RESULTS.mkdir(exist_ok=True)
    report = {"workers": WORKERS, "trials": TRIALS, "killings": KILLINGS, "storages": found}
    (RESULTS / "workers.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "workers.md").write_text(table(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Path(sys.argv[2]), sys.argv[3] or None, int(sys.argv[4]))
    else:
        main()
