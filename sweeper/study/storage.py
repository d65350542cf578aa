"""Where Optuna keeps a study: a journal in the study's folder, a database, or Optuna's proxy."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from sweeper.config import OBJECTIVES, Directions
from sweeper.search.samplers import instantiate_checked
from sweeper.study.journal import Journal
from sweeper.study.study_attributes import check_study
from train.config.parsing import cause
from train.errors import ConfigError, UserError
from train.files.untrusted import UntrustedFileError
from train.text.display import shortened

try:
    from grpc import RpcError
except ImportError:  # it comes with the extra `database`; without it there is no proxy to fail
    RpcError = ConnectionError

OUTAGE_ERRORS = (StorageInternalError, SQLAlchemyError, ConnectionError, RpcError)
JOURNAL_FILE = "optuna.journal"
GRPC_SCHEME, PROXY_TIMEOUT = "grpc://", 20.0  # seconds in which a proxy must answer
MAX_ATTEMPTS, ALREADY_EXISTS = 5, ("already exists", "UniqueViolation", "UNIQUE", "Duplicate")
ENGINE_OPTIONS = {"pool_pre_ping": True}  # a connection that broke in the meantime is made anew
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
        ConfigError: a database that cannot be reached, or a study that no sweep has written.
    """
    pruner_object = instantiate_checked("pruner", pruner, BasePruner)
    with damage_as_config_error(folder, url):
        study = optuna.create_study(
            study_name=folder.name,
            storage=_storage(folder, url),
            directions=directions,
            pruner=pruner_object,
            load_if_exists=True,
        )
        check_study(study)
        return study


def study_names(folder: Path, url: str | None) -> list[str]:
    """The names of the studies that there are beside this one."""
    if url is None:
        return [file.parent.name for file in folder.parent.glob(f"*/{JOURNAL_FILE}")]
    return [study.study_name for study in _storage(folder, url).get_all_studies()]


def find_study(folder: Path, url: str | None) -> optuna.Study | None:
    """The study of a folder, to be read; None where there is none, or its storage is away or
    damaged."""
    try:
        if folder.name not in study_names(folder, url):
            return None
        with damage_as_config_error(folder, url):
            study = optuna.load_study(study_name=folder.name, storage=_storage(folder, url))
            check_study(study)
            return study
    except (*OUTAGE_ERRORS, UserError):
        return None


def _storage(folder: Path, url: str | None) -> BaseStorage:
    if url is not None:
        try:
            return _proxy(url) if url.startswith(GRPC_SCHEME) else _database(url)
        except (*OUTAGE_ERRORS, ImportError, ValueError) as error:
            raise ConfigError(f"study.storage: cannot be used: {cause(error)}") from error
    return JournalStorage(Journal(folder / JOURNAL_FILE))


def _database(url: str) -> BaseStorage:
    """Workers that begin together all make the tables: who comes second finds them there."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=ENGINE_OPTIONS)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not any(words in str(error) for words in ALREADY_EXISTS):
                raise
            time.sleep(1)
    return RDBStorage(url, engine_kwargs=ENGINE_OPTIONS)


def _proxy(url: str) -> BaseStorage:
    """Raises ConnectionError where nothing answers."""
    address = urlsplit(url)
    if not address.hostname or not address.port:
        raise ValueError(f"{url} is not grpc://host:port")
    storage = GrpcStorageProxy(host=address.hostname, port=address.port)
    storage.wait_server_ready(timeout=PROXY_TIMEOUT)
    return storage


@contextmanager
def damage_as_config_error(folder: Path, url: str | None) -> Iterator[None]:
    """What Optuna cannot make sense of in a study ends what is done here in one line.

    Raises:
        ConfigError: it cannot.
    """
    try:
        yield
    except Exception as error:  # whatever contradicts itself in what another has written
        passed_on = (*OUTAGE_ERRORS, UserError, OSError)
        if isinstance(error, passed_on) and not isinstance(error, UntrustedFileError):
            raise
        raise _damage_error(folder / JOURNAL_FILE if url is None else None, error) from error


def _damage_error(journal: Path | None, error: Exception) -> ConfigError:
    reason = f"{error}" if isinstance(error, ValueError) and str(error) else cause(error)
    if journal is None:
        return ConfigError(
            f"study.storage: the study in it is damaged ({reason}); choose another study.name"
        )
    return ConfigError(
        f"{shortened(journal)} is damaged ({reason}); move it away, and the study begins anew"
    )


@contextmanager
def outage_as_config_error() -> Iterator[None]:
    """A storage that answers no more ends what is done here in one line.

    Raises:
        ConfigError: it does not.
    """
    try:
        yield
    except OUTAGE_ERRORS as error:
        raise ConfigError(
            f"study.storage: does not answer: {cause(error)}; the same command continues "
            "the study once it does"
        ) from error
