"""Optuna's storage of a study: a journal in the study's folder, a database, or a gRPC proxy."""

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
except ImportError:  # grpc comes with the extra `database`; without it no proxy is used
    RpcError = ConnectionError

OUTAGE_ERRORS = (StorageInternalError, SQLAlchemyError, ConnectionError, RpcError)
JOURNAL_FILE = "optuna.journal"
GRPC_SCHEME, PROXY_TIMEOUT = "grpc://", 20.0  # seconds to wait for a proxy
MAX_ATTEMPTS, ALREADY_EXISTS = 5, ("already exists", "UniqueViolation", "UNIQUE", "Duplicate")
ENGINE_OPTIONS = {"pool_pre_ping": True}  # reconnects if a connection has broken
NO_PRUNER = {"_target_": "optuna.pruners.NopPruner"}
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=ExperimentalWarning)


def open_study(
    folder: Path,
    pruner: dict[str, Any],
    url: str | None = None,
    directions: Directions = OBJECTIVES["fidelity"],
) -> optuna.Study:
    """Loads the Optuna study of a folder, or creates it.

    Args:
        pruner: settings of the pruner, which Optuna does not store.
        url: a database URL of SQLAlchemy, or grpc://host:port of Optuna's proxy; None: the journal
            in the folder.
        directions: the directions of a new study.

    Raises:
        ConfigError: the storage cannot be reached, or the study was not written by a sweep.
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
    """The names of all studies in the storage."""
    if url is None:
        return [file.parent.name for file in folder.parent.glob(f"*/{JOURNAL_FILE}")]
    return [study.study_name for study in _storage(folder, url).get_all_studies()]


def find_study(folder: Path, url: str | None) -> optuna.Study | None:
    """The Optuna study of a folder; None if it does not exist, is damaged or cannot be reached."""
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
    """Retries if another worker that started at the same time has just created the tables."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=ENGINE_OPTIONS)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not any(message in str(error) for message in ALREADY_EXISTS):
                raise
            time.sleep(1)
    return RDBStorage(url, engine_kwargs=ENGINE_OPTIONS)


def _proxy(url: str) -> BaseStorage:
    """Connects to Optuna's gRPC proxy. Raises ConnectionError if there is no answer."""
    address = urlsplit(url)
    if not address.hostname or not address.port:
        raise ValueError(f"{url} is not grpc://host:port")
    storage = GrpcStorageProxy(host=address.hostname, port=address.port)
    storage.wait_server_ready(timeout=PROXY_TIMEOUT)
    return storage


@contextmanager
def damage_as_config_error(folder: Path, url: str | None) -> Iterator[None]:
    """Context manager: turns Optuna's errors about a damaged study into a one-line ConfigError.

    Raises:
        ConfigError: the study is damaged.
    """
    try:
        yield
    except Exception as error:  # inconsistent data can raise any error in Optuna
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
        f"{shortened(journal)} is damaged ({reason}); move it away to start the study over"
    )


@contextmanager
def outage_as_config_error() -> Iterator[None]:
    """Context manager: turns an outage of the storage into a one-line ConfigError.

    Raises:
        ConfigError: the storage no longer answers.
    """
    try:
        yield
    except OUTAGE_ERRORS as error:
        raise ConfigError(
            f"study.storage: does not answer: {cause(error)}; the same command continues "
            "the study when it answers again"
        ) from error
