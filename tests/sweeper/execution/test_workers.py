"""Many workers on one study: no trial is lost, repeated or stuck, whatever crashes, in any
storage."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from bench.workers import load_trials, postgres, start_workers
from sweeper.execution.workers import device_override
from sweeper.stop_request import REQUEST_FILE
from sweeper.study import trial_lease
from sweeper.study.trial_lease import LeasedTrial
from sweeper.tracking.trial_record import COMPLETE, TrialRecord, load_records
from tests.sweeper.conftest import LIMIT, SMALL, finish, send_signal_at
from tests.sweeper.study.test_budget import study_of

LINE = ("-m", "network.rank=2,4,6", "hydra.sweeper.n_trials=3", "study.name=many", "pack=1", *SMALL)
TWO = "hydra.sweeper.workers=2"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server for one test."""
    folder = tmp_path_factory.mktemp("postgres")
    for place in (folder, *folder.parents):
        if place.owner() == folder.owner() and place.stat().st_mode & 0o777 == 0o700:
            place.chmod(0o755)  # the server runs as another user
    with postgres(folder / "server") as url:
        if url is None:
            pytest.skip("there is no PostgreSQL (Debian: apt install postgresql)")
        yield url


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Context manager: runs a server, and waits until it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LIMIT
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, command
            assert time.monotonic() < deadline, command
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=LIMIT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def share_a_study(folder: Path, url: str | None) -> int:
    """Four workers do 100 trials, one of them killed on its way; how many were finished."""
    workers = start_workers(folder, url, workers=4, trials=100)
    victim = workers.pop()
    assert victim.stdout
    before = [int(victim.stdout.readline()) for _ in range(5)]
    victim.kill()
    victim.wait()
    after = victim.stdout.read().split()
    by_others = [int(n) for w in workers for n in w.communicate(timeout=LIMIT)[0].split()]
    assert [worker.returncode for worker in workers] == [0] * 3
    trials = load_trials(folder, url)
    assert [trial.number for trial in trials] == list(range(100))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({str(trial.params) for trial in trials}) == 100, "no settings twice"
    finished_numbers = [*before, *map(int, after), *by_others]
    # the victim may have finished a trial without printing it
    assert len(finished_numbers) == len(set(finished_numbers)) >= 99
    return len(trials)


def test_workers_share_the_journal(tmp_path: Path) -> None:
    assert share_a_study(tmp_path / "study", None) == 100


def test_workers_share_a_postgresql(tmp_path: Path, server: str) -> None:
    assert share_a_study(tmp_path / "study", server) == 100


@pytest.mark.parametrize("sqlite", [True, False])
def test_workers_can_create_a_database_together(
    tmp_path: Path, sqlite: bool, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db" if sqlite else request.getfixturevalue("server")
    begin = (
        "import sys; from pathlib import Path; from sweeper.study.storage import NO_PRUNER,"
        "open_study; print('ready', flush=True); sys.stdin.readline();"
        f"open_study(Path({str(tmp_path / 'study')!r}), NO_PRUNER, {url!r})"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", begin], stdin=subprocess.PIPE, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    ended = [worker.communicate(timeout=LIMIT) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, ended


def test_workers_share_a_study_through_the_proxy(tmp_path: Path) -> None:
    port = free_port()
    serve = (
        "import optuna; from optuna.storages import get_storage, run_grpc_proxy_server as run;"
        f"run(get_storage('sqlite:///{tmp_path}/o.db'), host='127.0.0.1', port={port})"
    )
    with running([sys.executable, "-c", serve], port):
        assert share_a_study(tmp_path / "study", f"grpc://127.0.0.1:{port}") == 100


def test_a_worker_without_heartbeats_loses_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_lease, "LEASE_SECONDS", 2.0)
    holder = (
        "import sys, time; from sweeper.study import trial_lease; trial_lease.LEASE_SECONDS = 2.0;"
        "from pathlib import Path; from tests.sweeper.study.test_budget import study_of;"
        f"trial = study_of(Path({str(tmp_path)!r})).next_trial(1); print('held', flush=True);"
        "[time.sleep(0.1) for _ in iter(lambda: trial.lost, True)]; print('lost', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    study = study_of(tmp_path)
    time.sleep(3)
    assert study.next_trial(1) is None
    assert study.held_by_others() == [0], "it is slow, but alive"
    process.send_signal(signal.SIGSTOP)  # like a machine that hangs
    taken, deadline = None, time.monotonic() + 20
    watched = trial_lease.lease_lock(tmp_path, 0)  # monitors the heartbeat
    while taken is None and time.monotonic() < deadline:
        taken = study.next_trial(1)
        time.sleep(0.2)
    assert isinstance(taken, LeasedTrial)
    assert watched.is_locked
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "lost\n"
    taken.lock.release()


def check_finished(root: Path) -> list[TrialRecord]:
    """Checks that two workers ran each trial of a finished study once; returns the records."""
    records = load_records(root / "studies" / "many")
    assert [record.params["network.rank"] for record in records if record.state == COMPLETE] == [
        record.params["network.rank"] for record in records
    ]
    assert sorted(record.params["network.rank"] for record in records) == [2, 4, 6]
    assert len({record.tags["worker"] for record in records}) == 2
    assert (root / "studies/many/best.safetensors").is_file()
    return records


def test_worker_processes_stop_with_the_command_and_continue(fresh: Path) -> None:
    line = (*LINE, "hydra/launcher=processes", TWO)
    code, output = send_signal_at(fresh, "epoch  1/2", signal.SIGINT, *line)  # to the parent alone
    assert code != 0, output
    assert "finishing this epoch" in output
    assert (fresh / "studies/many" / REQUEST_FILE).is_file()
    assert "interrupted; run the same command again to continue the study" in output
    records = load_records(fresh / "studies/many")
    assert 0 < sum(len(record.epochs) for record in records) < 6
    code, output = finish(fresh, "sweeper", *line)
    assert code == 0, output
    check_finished(fresh)
    assert output.count("the LoRA to keep") == 1, "only the last worker finalizes the study"


def test_gpus_are_assigned_round_robin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assigned = [device_override(number, "auto") for number in range(3)]
    assert assigned == [["base.device=cuda:0"], ["base.device=cuda:1"], ["base.device=cuda:0"]]
    assert device_override(1, "cpu") == [], "an explicit device is not replaced"


def test_other_launchers_need_workers_and_a_name(tmp_path: Path) -> None:
    line = [word for word in LINE if not word.startswith("study.name")]
    code, output = finish(tmp_path, "sweeper", *line, "hydra/launcher=processes", TWO)
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("error: study.name: workers need a name")
    code, output = finish(tmp_path, "sweeper", *LINE, "hydra/launcher=processes",
                          "hydra.sweeper.workers=0")  # fmt: skip
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("error: hydra.sweeper.workers")


def test_jobs_of_submitit(tmp_path: Path) -> None:
    """As on Slurm, but without it: pickled jobs in separate processes, with logs."""
    code, output = finish(tmp_path, "sweeper", *LINE, "hydra/launcher=submitit_local", TWO,
                          f"hydra.launcher.submitit_folder={tmp_path}/workers")  # fmt: skip
    assert code == 0, output
    check_finished(tmp_path)
    logs = [file.read_text() for file in (tmp_path / "workers").glob("*_log.out")]
    assert len(logs) == 2


def test_ray_cluster_of_two_nodes_with_servers(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = [str(Path(sys.executable).with_name("ray"))]
    port, tracking = free_port(), free_port()
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers=1",
              "--port", str(tracking), "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
              "--artifacts-destination", str(tmp_path / "artifacts")]  # fmt: skip
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    node = ["--num-cpus=1", "--num-gpus=0", "--disable-usage-stats"]
    head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    try:
        for place in (head, [f"--address=127.0.0.1:{port}"]):
            subprocess.run([*ray, "start", *place, *node], check=True, env=environment,
                           stdout=subprocess.DEVNULL, timeout=LIMIT)  # fmt: skip
        with running(mlflow, tracking):
            uri = f"http://127.0.0.1:{tracking}"
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            cluster = ["hydra.launcher.ray.remote.num_gpus=0",
                       f"hydra.launcher.ray.init.address=127.0.0.1:{port}"]  # fmt: skip
            process = subprocess.run(
                [sys.executable, "-m", "sweeper", *LINE, "hydra/launcher=ray_cluster", TWO,
                 *cluster, f"study.storage={server}", f"study.root={tmp_path}/shared"],
                timeout=LIMIT, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.returncode == 0, process.stdout
            check_finished(tmp_path / "shared")
            client = MlflowClient(uri)
            champion = client.get_model_version_by_alias("many", "champion")
            names = {artifact.path for artifact in client.list_artifacts(str(champion.run_id))}
            assert "config.yaml" in names
    finally:
        subprocess.run([*ray, "stop", "--force"], stdout=subprocess.DEVNULL, timeout=LIMIT)
    assert list((tmp_path / "artifacts").rglob("best.safetensors")), "they went through the server"
    assert not (tmp_path / "shared/studies/many/optuna.journal").exists()
    assert not (tmp_path / "shared/mlflow.db").exists()
