"""Untrusted MLflow stores: tags, addresses and artifacts are only data."""

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
    """A root with an MLflow store, in which each test creates its own runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        folder = tmp_path_factory.mktemp("machine") / "store"
        folder.mkdir()
        store = MlflowStore(folder, "first")
        assert store.client
        assert store.experiment == "1"
    return folder


def create_run(root: Path, tags: dict[str, str], artifact_uri: str = "") -> Run:
    """Creates a run with these tags and this artifact URI."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    run = client.create_run("1", tags=tags)
    if artifact_uri:
        with closing(sqlite3.connect(root / "mlflow.db")) as store, store:
            row = (artifact_uri, run.info.run_id)
            store.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", row)
    return client.get_run(run.info.run_id)


def refuse(root: Path, **settings: str) -> str:
    """Checks that `python -m sweeper.reproduce` is refused, and returns the error line."""
    config = ReproduceConfig(root=str(root), **cast(Any, settings))
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
def test_hostile_tag_is_refused_in_one_line(root: Path, tags: dict[str, str]) -> None:
    run = create_run(root, tags)
    before = sorted(root.parent.rglob("*"))
    assert refuse(root, run_id=run.info.run_id).startswith("run_id: ")
    assert sorted(root.parent.rglob("*")) == before


def test_cycle_of_runs_ends(root: Path) -> None:
    run = create_run(root, {"study": "fine"})
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    client.set_tag(run.info.run_id, "best_run_id", run.info.run_id)
    assert "is not a trial of fine" in refuse(root, run_id=run.info.run_id)


@pytest.mark.parametrize("study", ["x' OR '1'='1", "../x", "a/b", "\x1b[2J"])
def test_invalid_study_name_is_refused(root: Path, study: str) -> None:
    assert refuse(root, study=study).startswith("study: ")


def record_json() -> str:
    record = {"study": "fine", "number": 0, "settings": {}, "overrides": [], "params": {},
             "tags": {}, "state": "failed", "reason": "so", "epochs": []}  # fmt: skip
    return json.dumps(record)


def test_artifacts_are_read_from_the_store_folder_only(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a store in a file and for the embedded store, whatever artifact URI it has."""
    (tmp_path / SECRET).write_text("secret")
    inside = root / "artifacts" / "some run"
    inside.mkdir(parents=True)
    (inside / SECRET).write_text("own")
    os.mkfifo(inside / "pipe.json")
    (inside / "link.json").symlink_to(tmp_path / SECRET)
    downloads: list[str] = []
    monkeypatch.setattr(
        MlflowClient, "download_artifacts", lambda *arguments: downloads.append("x")
    )

    def read(artifact_uri: str, name: str = SECRET) -> str | None:
        return artifact(store, client, create_run(root, {}, artifact_uri), name)

    embedded, own = MlflowStore(root, "first"), create_run(root, {}, tmp_path.as_uri())
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
    assert not downloads


@pytest.mark.parametrize(
    ("artifact_uri", "allowed"),
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
def test_no_other_host_than_the_tracking_server_is_contacted(
    artifact_uri: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would send it the password of the tracking server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:password@mine.example:5000")
    (tmp_path / "got").write_text("theirs")
    run = cast(
        Run, SimpleNamespace(info=SimpleNamespace(artifact_uri=artifact_uri, run_id="0" * 32))
    )
    store = MlflowStore(tmp_path, "x")
    client = SimpleNamespace(download_artifacts=lambda *arguments: str(tmp_path / "got"))
    assert artifact(store, cast(MlflowClient, client), run, SECRET) == (
        "theirs" if allowed else None
    )


def test_logged_record_belongs_to_the_trial_of_its_tag(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MlflowMirror(root, root / "studies" / "logged")
    client, experiment = store.client, store.experiment
    contents = {
        "1": record_json(),
        "2": "[" * 100_000,
        "3": "{",
        "x": record_json(),
        "../9": record_json(),
    }
    for trial, content in contents.items():
        run = client.create_run(experiment, tags={"study": "logged", "trial": trial})
        client.log_text(run.info.run_id, content, SECRET)
    records = logged_records(root / "studies" / "logged")
    assert [record.folder.name for record in records] == ["0001"]
    assert all(isinstance(record, TrialRecord) for record in records)
    assert caplog.text.count("is left out") == 4


def test_store_with_invalid_addresses_is_opened(tmp_path: Path) -> None:
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
