"""MLflow's embedded store in a folder that was moved or copied: its files are found again."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

log = logging.getLogger(__name__)
# where MLflow has whole addresses of files
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
OURS = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE ?"


def relocate(database: Path, artifacts: Path) -> None:
    """Makes the addresses in the store begin with the folder where its artifacts are now.

    Args:
        database: MLflow's, in SQLite.
        artifacts: the folder; its name is the same as where it was before.
    """
    now = artifacts.as_uri()
    try:
        with closing(sqlite3.connect(database, timeout=60)) as store, store:
            found = [row[0] for row in store.execute(OURS, (f"file://%/{artifacts.name}",))]
            for before in (place for place in found if place != now):
                log.info(f"MLflow's store was moved: its files are looked for in {artifacts}")
                for table, column in COLUMNS:
                    _replace(store, table, column, before, now)
    except sqlite3.Error as error:  # such as a store of another version of MLflow
        log.warning(f"{database}: the places of its files were not looked at ({error})")


def _replace(store: sqlite3.Connection, table: str, column: str, before: str, now: str) -> None:
    store.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
    )
