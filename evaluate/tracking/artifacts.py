"""The artifacts of runs, read as what somebody else may have written.

A store is data: where it says that a run's artifacts are is an address that anybody may have
written into it. On this machine, artifacts are read below the store's own folder, or below what
the person has named, and nowhere else.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.entities import Run

from evaluate.tracking.mlflow_store import ARTIFACTS, AWAY, MlflowStore
from evaluate.tracking.store_address import SQLITE
from train.files.permissions import is_foreign, is_named
from train.files.untrusted import UntrustedFileError, read_text

OF_A_SERVER = ("http", "https", "mlflow-artifacts")
OF_A_CLOUD = ("s3", "gs", "wasb", "wasbs", "abfs", "abfss", "dbfs", "hdfs")


def artifact(store: MlflowStore, client: MlflowClient, run: Run, name: str) -> str | None:
    """The text of an artifact; None where the run has none of that name, or it is out of reach.

    The embedded store's are looked for where it keeps them, wherever its database says that they
    are: it may have been moved.

    Args:
        client: of the store.
        name: of a file; not from the store.
    """
    place = str(run.info.artifact_uri)
    try:
        if store.embedded:
            own = store.root / ARTIFACTS
            return _local(store, own / str(run.info.run_id) / "artifacts", name)
        scheme = urlsplit(place).scheme
        if len(scheme) <= 1:  # a plain path, on Windows with the letter of a drive
            return _local(store, place, name)
        if scheme == "file":
            return _local(store, url2pathname(urlsplit(place).path), name)
        return _served(client, run, name) if _may_ask(store, place) else None
    except (
        *AWAY,
        UntrustedFileError,
        ValueError,
        RuntimeError,
    ):  # ValueError: no address, a NUL character
        return None


def _local(store: MlflowStore, folder: str | Path, name: str) -> str | None:
    """An artifact on this machine."""
    if is_foreign(folder):
        return None
    real = (Path(folder) / name).resolve()
    within = _folder_of(store)
    own = within is not None and real.is_relative_to(within)
    return read_text(real) if own or is_named(real) else None


def _served(client: MlflowClient, run: Run, name: str) -> str:
    """An artifact that a server hands out."""
    with tempfile.TemporaryDirectory() as folder:
        return read_text(Path(client.download_artifacts(run.info.run_id, name, folder)))


def _may_ask(store: MlflowStore, place: str) -> bool:
    """Whether an address is one of the server that the person has named, or of a cloud beside it.

    MLflow sends the server's password along, so no other host is asked.
    """
    if _folder_of(store) is not None:  # a store that is a file has its artifacts beside it
        return False
    address, server = urlsplit(place), urlsplit(store.uri)
    own = not address.netloc or ((address.hostname, address.port) == (server.hostname, server.port))
    return address.scheme in OF_A_CLOUD or (address.scheme in OF_A_SERVER and own)


def _folder_of(store: MlflowStore) -> Path | None:
    """Where a store that is a file keeps its artifacts; None: it is no file."""
    if store.embedded:
        return (store.root / ARTIFACTS).resolve()
    if store.uri.startswith(SQLITE):
        return Path(unquote(store.uri.removeprefix(SQLITE))).resolve().parent / ARTIFACTS
    return None
