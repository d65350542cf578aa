"""Updates an embedded MLflow store that was moved: MLflow records absolute artifact paths."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from train.files.permissions import is_foreign
from train.text.display import shortened

log = logging.getLogger(__name__)
MOST_PLACES = 20  # from which the artifacts of one store come
MOST_READ = 100_000
# the columns in which MLflow saves absolute addresses of files
ADDRESS_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate(database: Path, artifacts: str) -> None:
    """Replaces the artifact paths of the store's former folder by those of its present one.

    Args:
        database: of the store.
        artifacts: the address of its folder of artifacts, now.
    """
    try:
        with closing(sqlite3.connect(database, timeout=60)) as opened, opened:
            rows = opened.execute(
                "SELECT DISTINCT artifact_location FROM experiments LIMIT ?", (MOST_READ,)
            )
            places = [str(place) for (place,) in rows if place != artifacts]
            moved = [place for place in places if _was_moved(place, database.name)]
            if len(moved) > MOST_PLACES:
                log.warning(
                    f"{shortened(database)}: its artifact paths were not updated (they name "
                    f"{len(moved)} folders that no longer exist)"
                )
            elif moved:
                log.info(f"MLflow's store was moved: its artifacts are those of {artifacts}")
                for place in moved:
                    for table, column in ADDRESS_COLUMNS:
                        _replace(opened, table, column, place, artifacts)
    except sqlite3.Error as error:  # such as a store of another version of MLflow
        log.warning(f"{shortened(database)}: its artifact paths were not updated ({error})")


def _replace(store: sqlite3.Connection, table: str, column: str, before: str, now: str) -> None:
    store.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
    )


def _was_moved(place: str, database: str) -> bool:
    """Whether the path belongs to an embedded store that no longer exists there."""
    try:
        url = urlsplit(place)
        folder = Path(written := url2pathname(url.path))
        return (
            url.scheme == "file"
            and not is_foreign(written)
            and folder.name == "artifacts"
            and not (folder.parent / database).exists()
        )
    except (OSError, ValueError):  # not an address, or not one of a file
        return False
