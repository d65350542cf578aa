"""Updates an embedded MLflow store that was moved: MLflow records absolute artifact paths."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

log = logging.getLogger(__name__)
NOTED = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate(database: Path, artifacts: str) -> None:
    """Replaces the artifact paths of the store's former place by those of its present one.

    Args:
        database: of the store.
        artifacts: the address of its folder of artifacts, now.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as opened, opened:
        places = opened.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (place,) in places:
            if place != artifacts and _was_moved(str(place), database.name):
                for table, column in NOTED:
                    opened.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column}, 1, ?) = ?",
                        (artifacts, len(place) + 1, len(place) + 1, f"{place}/")
                        if column != "artifact_location"
                        else (artifacts, len(place) + 1, len(place), place),
                    )
                log.info(f"MLflow's store was moved: its artifacts are those of {artifacts}")


def _was_moved(place: str, database: str) -> bool:
    """Whether the path belongs to an embedded store that no longer exists at that place."""
    url = urlsplit(place)
    folder = Path(url2pathname(url.path))
    return (
        url.scheme == "file"
        and folder.name == "artifacts"
        and not (folder.parent / database).exists()
    )
