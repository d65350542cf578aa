"""SQLite files that somebody else may have written: opened read-only, within limits.

In such a file, a table may be a view that never ends, and a trigger or a virtual table can do more
than hold rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from train.files.untrusted import UntrustedFileError, check_regular
from train.text.display import shortened

INSTRUCTIONS_PER_CALLBACK = 1_000  # SQLite instructions between two progress callbacks
MAX_CALLBACKS = 5_000
MAX_VALUE_BYTES = 1_000_000  # bytes of a value, or of a statement
# the tables that a sweep writes to; MLflow itself has a trigger on another table
WRITTEN_TABLES = (
    "alembic_version", "experiments", "experiment_tags", "runs", "tags", "params", "metrics",
    "latest_metrics", "logged_models", "registered_models", "registered_model_tags",
    "model_versions", "model_version_tags",
)  # fmt: skip
SCHEMA = "SELECT type, name FROM sqlite_schema WHERE"
NOT_A_TABLE = "(type = 'view' OR sql LIKE 'CREATE VIRTUAL%')"


@contextmanager
def open_database(file: Path, *tables: str) -> Iterator[sqlite3.Connection]:
    """A read-only connection, after a check that these tables are tables, if they exist.

    Args:
        tables: that will be read; none: all must be tables, and those that a sweep writes to must
            have no trigger.

    Raises:
        UntrustedFileError: it is not a regular file, has something else in place of a table, or
            takes more steps to read than allowed.
        OSError: it does not exist.
        sqlite3.Error: it is not a database, or a query fails.
    """
    check_regular(file)
    ticks = count()
    address = f"{file.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as database:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        database.set_progress_handler(
            lambda: next(ticks) >= MAX_CALLBACKS, INSTRUCTIONS_PER_CALLBACK
        )
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            _check(database, file, tables)
            yield database
        except sqlite3.OperationalError as error:
            if next(ticks) <= MAX_CALLBACKS:
                raise
            raise UntrustedFileError(f"{shortened(file)}: takes too long to read") from error


def _check(database: sqlite3.Connection, file: Path, tables: tuple[str, ...]) -> None:
    names = tables or WRITTEN_TABLES
    placeholders = ", ".join("?" * len(names))
    query = (
        f"{SCHEMA} {NOT_A_TABLE} OR (type = 'trigger' AND lower(tbl_name) IN ({placeholders})) "
        "LIMIT 1"
    )
    if tables:
        query = f"{SCHEMA} {NOT_A_TABLE} AND lower(name) IN ({placeholders}) LIMIT 1"
    if row := database.execute(query, names).fetchone():
        kind, name = map(str, row)
        what = "virtual table" if kind == "table" else kind
        raise UntrustedFileError(
            f"{shortened(file)}: has the {what} {shortened(name)}, where tables should be"
        )
