"""Faults of MLflow's store are reported, immediately if waiting cannot help."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from evaluate.tracking.mlflow_store import MlflowStore, TrackedRun
from evaluate.tracking.tracking_uri import check_tracking, refusal_reason
from train.errors import ConfigError

OLD, NEW = "451aebb31d03", "ffffffffffff"  # MLflow's first schema, and none that it knows


def database(file: Path, version: str) -> Path:
    """A database of another MLflow version."""
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store.execute("INSERT INTO alembic_version VALUES (?)", (version,))
    return file


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("./mlruns", "set MLFLOW_TRACKING_URI=sqlite:///"),
        ("mlruns", "/mlruns/mlflow.db"),
        ("file:///tmp/mlruns", "sqlite:////tmp/mlruns/mlflow.db"),
        ("~/mlruns", "/mlruns/mlflow.db"),
        ("localhost:5000", "set MLFLOW_TRACKING_URI=http://localhost:5000"),
        ("10.0.0.7:5000/ml", "set MLFLOW_TRACKING_URI=http://10.0.0.7:5000/ml"),
        ("sqlite://mlflow.db", "write sqlite:///mlflow.db"),
        ("sqlite:mlflow.db", "write sqlite:///mlflow.db"),
        ("sqlite:////nowhere/at/all/mlflow.db", "there is no folder /nowhere/at/all"),
        ("postgres://me:secret@host/db", "did you mean postgresql?"),
        ("htp://host", "did you mean http?"),
        ("mssql://me:secret@host/db", "mssql://me:***@host/db needs a driver"),
        ("foo://host", "is not a scheme that MLflow knows"),
    ],
)
def test_invalid_tracking_uri_is_rejected(
    uri: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError) as error:
        check_tracking(tmp_path)
    assert str(error.value).startswith("MLFLOW_TRACKING_URI: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "uri",
    ["", "http://host:5000", "databricks", "databricks://profile", "uc", "sqlite:///mlflow.db"],
)
def test_valid_tracking_uri_is_accepted(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check_tracking(tmp_path / "not there yet")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_tracking(tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_unusable_database_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    file = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}" if named else "")
    database(file, OLD)
    with pytest.raises(ConfigError, match=f"then run: mlflow db upgrade sqlite:///{file}"):
        check_tracking(tmp_path)
    file.unlink()
    database(file, NEW)
    with pytest.raises(ConfigError, match="was written by a newer MLflow"):
        check_tracking(tmp_path)
    file.write_bytes(b"no database at all\n" * 100)
    with pytest.raises(ConfigError, match="is damaged"):
        check_tracking(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigError, match=r"mlflow\.db is a folder .*; move it away"):
        check_tracking(tmp_path)
    file.rmdir()
    file.write_bytes(b"")
    check_tracking(tmp_path)  # MLflow makes one of it
    file.unlink()
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store.execute("BEGIN EXCLUSIVE")
        check_tracking(tmp_path)  # locked: that passes


def test_invalid_store_does_not_stop_running_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    store = MlflowStore(tmp_path, "x")
    for _ in range(3):
        with store.tolerate_outage():
            assert store.client
    (message,) = caplog.messages
    assert message.startswith("MLflow: MLFLOW_TRACKING_URI: ./mlruns is a folder")
    assert message.endswith("its data is logged once that is fixed")


def test_damaged_run_state_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.json"
    for content in (b"", b"{torn", b"[]", b"null", b'{"uri": "x"}', b"\x80\x04"):
        file.write_bytes(content)
        assert TrackedRun(MlflowStore(tmp_path, "x"), file, "run").saved_id == ""


@pytest.fixture
def refusing_server() -> Iterator[HTTPServer]:
    """A server that answers each request with its `status`."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "MLFLOW_TRACKING_USERNAME"), (403, "--allowed-hosts"), (404, "is not an MLflow server")],
)
def test_refusing_server_is_not_reported_as_unreachable(
    refusing_server: HTTPServer, status: int, words: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    refusing_server.status = status  # type: ignore[attr-defined]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{refusing_server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = MlflowStore(tmp_path, "x")
    with store.tolerate_outage():
        assert store.client
    (message,) = caplog.messages
    assert words in message
    assert "away" not in message


def test_schema_mismatch_is_recognized_by_its_error() -> None:
    error = ValueError(f"Detected out-of-date database schema (found version {OLD}, but ...")
    message = refusal_reason(error, "postgresql://me:secret@host/db")
    assert "mlflow db upgrade 'postgresql://me:***@host/db'" in message
