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
MAX_LOCATIONS = 100_000  # that are looked at
MAX_MOVED = 20  # former folders of one store
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
                "SELECT DISTINCT artifact_location FROM experiments LIMIT ?", (MAX_LOCATIONS,)
            )
            uris = [str(uri) for (uri,) in rows if uri != artifacts]
            moved = [uri for uri in uris if _was_moved(uri, database.name)]
            if len(moved) > MAX_MOVED:
                log.warning(
                    f"{shortened(database)}: its artifact paths were not updated (they name "
                    f"{len(moved)} folders that no longer exist)"
                )
            elif moved:
                log.info(f"MLflow's store was moved: its artifacts are those of {artifacts}")
                for uri in moved:
                    for table, column in ADDRESS_COLUMNS:
                        _replace(opened, table, column, uri, artifacts)
    except sqlite3.Error as error:  # such as a store of another version of MLflow
        log.warning(f"{shortened(database)}: its artifact paths were not updated ({error})")


def _replace(
    store: sqlite3.Connection, table: str, column: str, old_uri: str, new_uri: str
) -> None:
    store.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (new_uri, len(old_uri) + 1, old_uri, len(old_uri) + 1, f"{old_uri}/"),
    )


def _was_moved(uri: str, database: str) -> bool:
    """Whether the path belongs to an embedded store that no longer exists there."""
    try:
        url = urlsplit(uri)
        folder = Path(path := url2pathname(url.path))
        return (
            url.scheme == "file"
            and not is_foreign(path)
            and folder.name == "artifacts"
            and not (folder.parent / database).exists()
        )
    except (OSError, ValueError):  # not an address, or not one of a file
        return False
