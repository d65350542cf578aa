"""SQLite files that somebody else may have written: opened to be read, within limits.

What such a file calls a table may be a view that never ends, and a trigger or a virtual table does
more than to hold rows.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from train.files.untrusted import UntrustedFileError, check_regular
from train.text.display import shortened

EACH, MOST = 1_000, 5_000  # steps of SQLite's machine between two looks at it; looks
LONGEST = 1_000_000  # bytes of a value, or of a statement
# the tables into which a sweep's records go; MLflow has a trigger of its own on another one
WRITTEN = (
    "alembic_version", "experiments", "experiment_tags", "runs", "tags", "params", "metrics",
    "latest_metrics", "logged_models", "registered_models", "registered_model_tags",
    "model_versions", "model_version_tags",
)  # fmt: skip
FOUND = "SELECT type, name FROM sqlite_schema WHERE"
NO_TABLE = "(type = 'view' OR sql LIKE 'CREATE VIRTUAL%')"


@contextmanager
def reading(file: Path, *tables: str) -> Iterator[sqlite3.Connection]:
    """A database to be read, in which these tables are tables, if they are there.

    Args:
        tables: that are asked for; none: all are to be tables, and no trigger goes with those that
            are written.

    Raises:
        UntrustedFileError: it is no regular file, has something else in the place of a table, or
            takes more steps to read than it should.
        OSError: it is not there.
        sqlite3.Error: it is no database, or what is asked for is not in it.
    """
    check_regular(file)
    looks = count()
    place = f"{file.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(place, uri=True)) as database:
        if sys.version_info >= (3, 11):
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
        database.set_progress_handler(lambda: next(looks) >= MOST, EACH)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            _check(database, file, tables)
            yield database
        except sqlite3.OperationalError as error:
            if next(looks) <= MOST:
                raise
            raise UntrustedFileError(f"{shortened(file)}: takes too long to read") from error


def _check(database: sqlite3.Connection, file: Path, tables: tuple[str, ...]) -> None:
    names = tables or WRITTEN
    marks = ", ".join("?" * len(names))
    query = f"{FOUND} {NO_TABLE} OR (type = 'trigger' AND lower(tbl_name) IN ({marks})) LIMIT 1"
    if tables:
        query = f"{FOUND} {NO_TABLE} AND lower(name) IN ({marks}) LIMIT 1"
    if found := database.execute(query, names).fetchone():
        kind, name = map(str, found)
        what = "virtual table" if kind == "table" else kind
        raise UntrustedFileError(
            f"{shortened(file)}: has the {what} {shortened(name)}, where tables are to be"
        )
