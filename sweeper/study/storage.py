"""Where Optuna keeps a study: a journal in the study's folder, a database, or Optuna's proxy."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from sweeper.config import OBJECTIVES, Directions
from sweeper.proposing.sampling import made
from train.config import ConfigError, cause

try:
    from grpc import RpcError
except ImportError:  # it comes with the extra `database`; without it there is no proxy to fail
    RpcError = ConnectionError

AWAY = (StorageInternalError, SQLAlchemyError, ConnectionError, RpcError)
JOURNAL = "optuna.journal"
GRPC, ANSWER = "grpc://", 20.0  # seconds in which a proxy must answer
TRIES, MADE_ALREADY = 5, ("already exists", "UniqueViolation", "UNIQUE", "Duplicate")
ENGINE = {"pool_pre_ping": True}  # a connection that broke in the meantime is made anew
NO_PRUNER = {"_target_": "optuna.pruners.NopPruner"}
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=ExperimentalWarning)


def open_study(
    folder: Path,
    pruner: dict[str, Any],
    url: str | None = None,
    directions: Directions = OBJECTIVES["fidelity"],
) -> optuna.Study:
    """The study of a folder, created where there is none. The pruner is not stored: it is given.

    Args:
        url: of a database, as SQLAlchemy writes it; grpc://host:port of Optuna's proxy; None: the
            journal in the folder.
        directions: of a study that is created.

    Raises:
        ConfigError: a database that cannot be reached.
    """
    return optuna.create_study(
        study_name=folder.name,
        storage=_storage(folder, url),
        directions=directions,
        pruner=made("pruner", pruner, BasePruner),
        load_if_exists=True,
    )


def known(folder: Path, url: str | None) -> list[str]:
    """The names of the studies that there are beside this one."""
    if url is None:
        return [file.parent.name for file in folder.parent.glob(f"*/{JOURNAL}")]
    return [study.study_name for study in _storage(folder, url).get_all_studies()]


def find_study(folder: Path, url: str | None) -> optuna.Study | None:
    """The study of a folder, to be read; None where there is none, or its storage is away."""
    try:
        if folder.name not in known(folder, url):
            return None
        return optuna.load_study(study_name=folder.name, storage=_storage(folder, url))
    except (*AWAY, ConfigError, KeyError):  # the last: a folder that was renamed
        return None


def _storage(folder: Path, url: str | None) -> BaseStorage:
    if url is not None:
        try:
            return _proxy(url) if url.startswith(GRPC) else _database(url)
        except (*AWAY, ImportError, ValueError) as error:
            raise ConfigError(f"study.storage: cannot be used: {cause(error)}") from error
    file = folder / JOURNAL
    lock: Any = JournalLock(file)  # the class that it would inherit from is not public
    try:
        return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # a line of it is no entry
        raise ConfigError(
            f"{file} is damaged ({cause(error)}); move it away, and the study begins anew"
        ) from error


def _database(url: str) -> BaseStorage:
    """Workers that begin together all make the tables: who comes second finds them there."""
    for _ in range(TRIES):
        try:
            return RDBStorage(url, engine_kwargs=ENGINE)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not any(words in str(error) for words in MADE_ALREADY):
                raise
            time.sleep(1)
    return RDBStorage(url, engine_kwargs=ENGINE)


def _proxy(url: str) -> BaseStorage:
    """Raises ConnectionError where nothing answers."""
    place = urlsplit(url)
    if not place.hostname or not place.port:
        raise ValueError(f"{url} is not grpc://host:port")
    storage = GrpcStorageProxy(host=place.hostname, port=place.port)
    storage.wait_server_ready(timeout=ANSWER)
    return storage


@contextmanager
def answering() -> Iterator[None]:
    """A storage that answers no more ends what is done here in one line.

    Raises:
        ConfigError: it does not.
    """
    try:
        yield
    except AWAY as error:
        raise ConfigError(
            f"study.storage: does not answer: {cause(error)}; the same command continues "
            "the study once it does"
        ) from error


class JournalLock:
    """Held while a line is written; the system frees it with its process, so that a killed one
    blocks nobody, and what it left half written is cut off first.

    Optuna reads on without such a line, but the next one appended to it would be lost too.
    """

    def __init__(self, journal: Path) -> None:
        self.journal, self.lock = journal, FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        self.lock.acquire()
        mend(self.journal)
        return True

    def release(self) -> None:
        self.lock.release()


def mend(journal: Path) -> None:
    """Cuts off a last line without an end."""
    with journal.open("r+b") as stream:
        if not stream.seek(0, os.SEEK_END):
            return
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
