"""Untrusted SQLite files: queries are bounded and read tables only."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from evaluate.tracking import database_file
from evaluate.tracking.database_file import open_database
from evaluate.tracking.store_address import Address
from evaluate.tracking.tracking_uri import check_tracking
from sweeper.results.report.search_insights import _has_studies
from train.errors import ConfigError
from train.files.untrusted import UntrustedFileError

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x {} FROM c"
RUN = "f" * 32


def database(folder: Path, *statements: str) -> Path:
    file = folder / "mlflow.db"
    with closing(sqlite3.connect(file)) as opened, opened:
        for statement in statements:
            opened.execute(statement)
    return file


HOSTILE = {
    "view": f"CREATE VIEW {{}} AS {ENDLESS.format('{}')} WHERE x < 0",
    "capitals": f"create view '{{}}' as {ENDLESS.format('{}')} WHERE x < 0",
    "virtual": "CREATE VIRTUAL TABLE {} USING fts5(a, run_uuid, version_num)",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_views_and_virtual_tables_are_not_queried(tmp_path: Path, kind: str) -> None:
    names = ("runs", "alembic_version", "studies")
    columns = {"runs": "run_uuid", "alembic_version": "version_num", "studies": "study_id"}
    spelled = {name: name.upper() if kind == "capitals" else name for name in names}
    file = database(
        tmp_path, *(HOSTILE[kind].format(spelled[name], columns[name]) for name in names)
    )
    start = time.monotonic()
    assert Address(tmp_path).lacks(RUN)
    assert not _has_studies(f"sqlite:///{file}")
    with pytest.raises(ConfigError, match="where tables should be") as error:
        check_tracking(tmp_path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("other", ["CREATE VIEW others AS SELECT 1",
                                   "CREATE TRIGGER t AFTER INSERT ON runs BEGIN SELECT 1; END",
                                   "CREATE TRIGGER t AFTER UPDATE ON RUNS BEGIN SELECT 1; END",
                                   "CREATE VIRTUAL TABLE f USING fts5(a)"])  # fmt: skip
def test_embedded_store_with_other_objects_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    file = database(tmp_path, "CREATE TABLE runs (run_uuid)", other)
    with pytest.raises(ConfigError, match="where tables should be"):
        check_tracking(tmp_path)
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"sqlite:///{file}"
    )  # the user's own store may have more
    check_tracking(tmp_path / "root")


def test_query_of_a_huge_table_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_file, "MAX_CALLBACKS", 50)
    file = database(tmp_path, "CREATE TABLE runs (run_uuid)",
                    f"INSERT INTO runs {ENDLESS.format('')} LIMIT 100000",
                    "CREATE TABLE alembic_version (version_num)",
                    "CREATE TABLE studies (x)")  # fmt: skip
    with (
        pytest.raises(UntrustedFileError, match="takes too long"),
        open_database(file, "runs") as opened,
    ):
        opened.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (RUN,)).fetchone()
    assert Address(tmp_path).lacks(RUN)
    monkeypatch.setattr(database_file, "MAX_CALLBACKS", 5_000)
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("INSERT INTO runs VALUES (?)", (RUN,))
    assert not Address(tmp_path).lacks(RUN)


def test_database_is_read_only(tmp_path: Path) -> None:
    file = database(tmp_path, "CREATE TABLE runs (run_uuid)")
    with pytest.raises(sqlite3.OperationalError), open_database(file, "runs") as opened:
        opened.execute("DELETE FROM runs")
    with pytest.raises(OSError, match="No such file"), open_database(tmp_path / "no.db"):
        pass
    assert not (tmp_path / "no.db").exists()
