"""Where runs are logged, and what a run remembers of that: without MLflow, which takes seconds to
import."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from evaluate.tracking.database_file import reading
from train.files.permissions import is_foreign
from train.files.untrusted import UntrustedFileError, read_json

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"  # of the embedded store
SQLITE = "sqlite:///"
RUN_FILE = "mlflow.json"  # in a folder: the run that its content is logged to
RUN_ID = r"^([0-9a-f]{32})?\Z"  # as MLflow makes them; anything else is no run


def embedded(root: Path) -> str:
    """The address of the store of a folder."""
    return f"{SQLITE}{(root.resolve() / DATABASE).as_posix()}"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or else the store in a folder."""
    return os.environ.get(VARIABLE) or embedded(root)


class Address:
    """Where runs go: MLFLOW_TRACKING_URI, or else the embedded store.

    Args:
        root: where the embedded store is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = tracking_uri(root)
        self.embedded = self.uri == embedded(root)

    @property
    def place(self) -> str:
        """What a run remembers of where it is logged; the embedded store may be moved."""
        return DATABASE if self.embedded else self.uri

    def is_at(self, place: str) -> bool:
        """Whether what a run remembers means this store."""
        if place in (self.place, self.uri):
            return True
        # what an earlier version remembered of an embedded store that was moved since
        file = place.removeprefix(SQLITE)
        named = self.embedded and Path(file).name == DATABASE
        return named and not is_foreign(file) and not os.path.exists(file)

    def lacks(self, run_id: str) -> bool:
        """Whether the store surely has no such run: it is a file that is gone or damaged, or that
        was made anew. What a server has is not asked."""
        if not self.uri.startswith(SQLITE):
            return False
        file = Path(self.uri.removeprefix(SQLITE)).resolve()
        try:
            with reading(file, "runs") as database:
                query = "SELECT 1 FROM runs WHERE run_uuid = ?"
                return database.execute(query, (run_id,)).fetchone() is None
        except (OSError, UntrustedFileError):
            return True
        except sqlite3.Error as error:
            return "locked" not in str(error)


class Memory(msgspec.Struct, omit_defaults=True):
    """What a run remembers in its file.

    Attributes:
        uri: where it is logged, see `Address.place`.
        run_id: MLflow's; empty: it has none yet.
        done: what was logged to it once and for all.
        about: what is logged hangs on it.
        tags: those that it has.
        epochs: those that it has, with when they were scored, in milliseconds since 1970.
        versions: folder of a checkpoint -> the version of the registered model.
    """

    uri: str
    run_id: Annotated[str, msgspec.Meta(pattern=RUN_ID)]
    done: list[str]
    about: dict[str, str] = {}
    tags: dict[str, str] = {}
    epochs: dict[str, int] = {}
    versions: dict[str, str] = {}


def remembered(address: Address, file: Path) -> Memory:
    """What a run remembers in its file; where that is damaged, nothing: the run is logged anew."""
    with suppress(FileNotFoundError, UntrustedFileError):
        saved = read_json(file, Memory)
        if address.is_at(saved.uri):
            return saved
    return Memory(address.place, "", [])


def run_id_in(address: Address, folder: Path) -> str:
    """The id of the run that a folder is logged to; empty where it has none (any more)."""
    run_id = remembered(address, folder / RUN_FILE).run_id
    return "" if address.lacks(run_id) else run_id
