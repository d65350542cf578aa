"""The address of the store, and the file that identifies a run in it, without importing MLflow,
which takes seconds."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from evaluate.tracking.database_file import open_database
from train.files.permissions import is_foreign
from train.files.untrusted import UntrustedFileError, read_json

URI_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"  # the embedded store's file
SQLITE = "sqlite:///"
RUN_FILE = "mlflow.json"  # in a folder: the run that its content is logged to
RUN_ID = r"^([0-9a-f]{32})?\Z"  # MLflow's format; anything else is not a run


def embedded(root: Path) -> str:
    """The address of the embedded store in a folder."""
    return f"{SQLITE}{(root.resolve() / DATABASE).as_posix()}"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or else the embedded store in a folder."""
    return os.environ.get(URI_VARIABLE) or embedded(root)


class Address:
    """The address of the store: MLFLOW_TRACKING_URI, or else the embedded one.

    Args:
        root: folder of the embedded store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = tracking_uri(root)
        self.embedded = self.uri == embedded(root)

    @property
    def place(self) -> str:
        """The address that a run's file saves; portable for the embedded store."""
        return DATABASE if self.embedded else self.uri

    def is_at(self, place: str) -> bool:
        """Whether an address from a run's file means this store."""
        if place in (self.place, self.uri):
            return True
        # earlier versions saved the path of the embedded store, which may have moved since
        file = place.removeprefix(SQLITE)
        is_embedded = self.embedded and Path(file).name == DATABASE
        return is_embedded and not is_foreign(file) and not os.path.exists(file)

    def lacks(self, run_id: str) -> bool:
        """Whether the store certainly has no such run: it is a file that is missing, damaged, or
        was created anew. A server is not contacted."""
        if not self.uri.startswith(SQLITE):
            return False
        file = Path(self.uri.removeprefix(SQLITE)).resolve()
        try:
            with open_database(file, "runs") as database:
                query = "SELECT 1 FROM runs WHERE run_uuid = ?"
                return database.execute(query, (run_id,)).fetchone() is None
        except (OSError, UntrustedFileError):
            return True
        except sqlite3.Error as error:
            return "locked" not in str(error)


class RunState(msgspec.Struct, omit_defaults=True):
    """The content of a run's file.

    Attributes:
        uri: of the store, see `Address.place`.
        run_id: MLflow's; empty if the run has none yet.
        done: keys of what was logged once.
        about: what the logged content depends on.
        tags: that are set.
        epochs: logged epochs -> when they were scored, in milliseconds since 1970.
        versions: folder of a checkpoint -> version of the registered model.
    """

    uri: str
    run_id: Annotated[str, msgspec.Meta(pattern=RUN_ID)]
    done: list[str]
    about: dict[str, str] = {}
    tags: dict[str, str] = {}
    epochs: dict[str, int] = {}
    versions: dict[str, str] = {}


def load_state(address: Address, file: Path) -> RunState:
    """The content of a run's file; empty if it is damaged, so that the run is logged again."""
    with suppress(FileNotFoundError, UntrustedFileError):
        saved = read_json(file, RunState)
        if address.is_at(saved.uri):
            return saved
    return RunState(address.place, "", [])


def run_id_in(address: Address, folder: Path) -> str:
    """The id of the run that a folder is logged to; empty if it has none (anymore)."""
    run_id = load_state(address, folder / RUN_FILE).run_id
    return "" if address.lacks(run_id) else run_id
