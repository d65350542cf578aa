"""Somebody else's MLflow store: its tags, addresses and artifacts are data."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from evaluate.tracking.artifacts import artifact
from evaluate.tracking.mlflow_store import MlflowStore
from evaluate.tracking.relocation import relocate
from sweeper.reproduction import reproduce
from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from sweeper.results.mlflow_records import logged_records
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import TrialRecord
from train.errors import UserError

SECRET = "scorecards.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with MLflow's store, in which each test makes runs of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        folder = tmp_path_factory.mktemp("store")
        store = MlflowStore(folder, "first")
        assert store.client
        assert store.experiment == "1"
    return folder


def run_with(root: Path, tags: dict[str, str], place: str = "") -> Run:
    """A run that somebody has written: with these tags, and its artifacts at this address."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    run = client.create_run("1", tags=tags)
    if place:
        with closing(sqlite3.connect(root / "mlflow.db")) as store, store:
            row = (place, run.info.run_id)
            store.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", row)
    return client.get_run(run.info.run_id)


def refusal(root: Path, **given: str) -> str:
    """What `python -m sweeper.reproduce` says."""
    config = ReproduceConfig(root=str(root), **cast(Any, given))
    with pytest.raises(UserError) as error:
        _reproduce(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def _reproduce(config: ReproduceConfig) -> None:
    check_reproduce(config)
    reproduce.main(config)


@pytest.mark.parametrize(
    "tags",
    [
        {"study": "../../outside", "trial": "0"},
        {"study": "/outside", "trial": "0"},
        {"study": "a\nb", "trial": "0"},
        {"study": "x" * 5000, "trial": "0"},
        {"study": "fine", "trial": "../../0"},
        {"study": "fine", "trial": "²"},
        {"study": "fine", "trial": "9" * 4500},
        {"study": "fine", "trial": "-1"},
        {"study": "fine", "trial": "0", "mlflow.parentRunId": "../../x"},
        {"study": "fine", "best_run_id": "../../etc/passwd"},
        {"study": "fine", "best_run_id": "f" * 32},
        {"study": "fine", "trial": "7"},
        {"trial": "7"},
    ],
    ids=lambda tags: str(tags)[:60],
)
def test_a_hostile_tag_is_refused_in_a_line(root: Path, tags: dict[str, str]) -> None:
    run = run_with(root, tags)
    before = sorted(root.parent.rglob("*"))
    assert refusal(root, run_id=run.info.run_id).startswith("run_id: ")
    assert sorted(root.parent.rglob("*")) == before


def test_runs_that_name_each_other_end(root: Path) -> None:
    run = run_with(root, {"study": "fine"})
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    client.set_tag(run.info.run_id, "best_run_id", run.info.run_id)
    assert "is no trial of fine" in refusal(root, run_id=run.info.run_id)


@pytest.mark.parametrize("study", ["x' OR '1'='1", "../x", "a/b", "\x1b[2J"])
def test_a_study_is_asked_for_by_a_name_alone(root: Path, study: str) -> None:
    assert refusal(root, study=study).startswith("study: ")


def record() -> str:
    about = {"study": "fine", "number": 0, "settings": {}, "overrides": [], "params": {},
             "tags": {}, "state": "failed", "reason": "so", "epochs": []}  # fmt: skip
    return json.dumps(about)


def test_artifacts_are_read_in_the_stores_own_folder_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that is a file, named by its address; of the embedded one, wherever it says."""
    (tmp_path / SECRET).write_text("secret")
    inside = root / "artifacts" / "some run"
    inside.mkdir(parents=True)
    (inside / SECRET).write_text("own")
    os.mkfifo(inside / "pipe.json")
    (inside / "link.json").symlink_to(tmp_path / SECRET)
    asked: list[str] = []
    monkeypatch.setattr(MlflowClient, "download_artifacts", lambda *about: asked.append("asked"))

    def read(place: str, name: str = SECRET) -> str | None:
        return artifact(store, client, run_with(root, {}, place), name)

    embedded, own = MlflowStore(root, "first"), run_with(root, {}, tmp_path.as_uri())
    folder = root / "artifacts" / own.info.run_id / "artifacts"
    folder.mkdir(parents=True)
    (folder / SECRET).write_text("at home")
    assert artifact(embedded, embedded.client, own, SECRET) == "at home"
    (folder / SECRET).unlink()
    (folder / SECRET).symlink_to(tmp_path / SECRET)
    assert artifact(embedded, embedded.client, own, SECRET) is None

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    store = MlflowStore(tmp_path / "other", "first")
    client = MlflowClient(store.uri)
    assert read(inside.as_uri()) == "own"
    assert read(inside.as_uri(), "pipe.json") is None
    assert read(inside.as_uri(), "link.json") is None
    for place in (
        tmp_path.as_uri(), str(tmp_path), f"{inside.as_uri()}/../../../{tmp_path.name}",
        f"{root.as_uri()}/artifacts/../../{tmp_path.name}", f"file://host{tmp_path}",
        "http://evil.example/x", "mlflow-artifacts://evil.example/x", "s3://evil/x", "file://[",
        "ftp://evil.example/x", "file:///a%00b", "runs:/x/y", "models:/x/1", "dbfs:/x", "x" * 9000,
    ):  # fmt: skip
        assert read(place) is None, place
    assert not asked


@pytest.mark.parametrize(
    ("place", "asks"),
    [
        ("mlflow-artifacts:/1/x/artifacts", True),
        ("mlflow-artifacts://mine.example:5000/1/x", True),
        ("https://mine.example:5000/1/x", True),
        ("s3://bucket/1/x", True),
        ("mlflow-artifacts://evil.example/1/x", False),
        ("http://evil.example/1/x", False),
        ("ftp://mine.example:5000/1/x", False),
        ("file:///etc", False),
    ],
)
def test_of_other_hosts_than_the_named_server_nothing_is_asked(
    place: str, asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would send the server's password along."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:password@mine.example:5000")
    (tmp_path / "got").write_text("theirs")
    run = cast(Run, SimpleNamespace(info=SimpleNamespace(artifact_uri=place, run_id="0" * 32)))
    store = MlflowStore(tmp_path, "x")
    got = SimpleNamespace(download_artifacts=lambda *about: str(tmp_path / "got"))
    assert artifact(store, cast(MlflowClient, got), run, SECRET) == ("theirs" if asks else None)


def test_a_record_of_a_store_is_of_the_trial_that_its_tag_says(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MlflowMirror(root, root / "studies" / "logged")
    client, experiment = store.client, store.experiment
    contents = {"1": record(), "2": "[" * 100_000, "3": "{", "x": record(), "../9": record()}
    for trial, content in contents.items():
        run = client.create_run(experiment, tags={"study": "logged", "trial": trial})
        client.log_text(run.info.run_id, content, SECRET)
    found = logged_records(root / "studies" / "logged")
    assert [one.folder.name for one in found] == ["0001"]
    assert all(isinstance(one, TrialRecord) for one in found)
    assert caplog.text.count("is left out") == 4


def test_a_store_with_odd_addresses_is_opened(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as store, store:
        store.execute("CREATE TABLE experiments (artifact_location)")
        long = "file:///" + "a/" * 5000
        for place in ("file://[", "file:///a%00b/artifacts", "\0", long, b"\xff", 3):
            store.execute("INSERT INTO experiments VALUES (?)", (place,))
    relocate(database, "file:///new")


def test_a_store_with_many_moved_folders_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as store, store:
        store.execute("CREATE TABLE experiments (artifact_location)")
        places = [(f"file:///no/{i}/artifacts",) for i in range(20_000)]
        store.executemany("INSERT INTO experiments VALUES (?)", places)
    relocate(database, "file:///new")
    assert caplog.text.count("were not updated (they name 20000 folders") == 1
    with closing(sqlite3.connect(database)) as store:
        assert sorted(store.execute("SELECT * FROM experiments")) == sorted(places)
