"""Reads the artifacts of runs, which somebody else may have written.

A store is data: anybody may have written the artifact address of a run into it. On this machine,
artifacts are read only below the store's own folder, or below folders that the user has named.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.entities import Run

from evaluate.tracking.mlflow_store import ARTIFACTS, STORE_ERRORS, MlflowStore
from evaluate.tracking.store_address import SQLITE
from train.files.permissions import is_foreign, may_read
from train.files.untrusted import UntrustedFileError, read_text

SERVER_SCHEMES = ("http", "https", "mlflow-artifacts")
CLOUD_SCHEMES = ("s3", "gs", "wasb", "wasbs", "abfs", "abfss", "dbfs", "hdfs")


def artifact(store: MlflowStore, client: MlflowClient, run: Run, name: str) -> str | None:
    """The text of an artifact; None if the run has none of that name, or it is out of reach.

    The embedded store's artifacts are looked up where it keeps them, whatever its database says:
    it may have been moved.

    Args:
        client: of the store.
        name: of a file; must not come from the store.
    """
    uri = str(run.info.artifact_uri)
    try:
        if store.embedded:
            folder = store.root / ARTIFACTS / str(run.info.run_id) / "artifacts"
            return _local(store, folder, name)
        scheme = urlsplit(uri).scheme
        if len(scheme) <= 1:  # a plain path, on Windows with a drive letter
            return _local(store, uri, name)
        if scheme == "file":
            return _local(store, url2pathname(urlsplit(uri).path), name)
        return _download(client, run, name) if _may_contact(store, uri) else None
    except (
        *STORE_ERRORS,
        UntrustedFileError,
        ValueError,
        RuntimeError,
    ):  # ValueError: not an address, or a NUL character
        return None


def _local(store: MlflowStore, folder: str | Path, name: str) -> str | None:
    """An artifact on this machine, if it may be read."""
    if is_foreign(folder):
        return None
    path = (Path(folder) / name).resolve()
    root = _artifact_root(store)
    is_own = root is not None and path.is_relative_to(root)
    return read_text(path) if is_own or may_read(path) else None


def _download(client: MlflowClient, run: Run, name: str) -> str:
    """An artifact that a server provides."""
    with tempfile.TemporaryDirectory() as folder:
        return read_text(Path(client.download_artifacts(run.info.run_id, name, folder)))


def _may_contact(store: MlflowStore, uri: str) -> bool:
    """Whether an address belongs to the user's server, or to a cloud beside it.

    MLflow sends the server's password along, so no other host may be contacted.
    """
    if _artifact_root(store) is not None:  # artifacts of a store in a file are next to it
        return False
    address, server = urlsplit(uri), urlsplit(store.uri)
    same_host = not address.netloc or (
        (address.hostname, address.port) == (server.hostname, server.port)
    )
    return address.scheme in CLOUD_SCHEMES or (address.scheme in SERVER_SCHEMES and same_host)


def _artifact_root(store: MlflowStore) -> Path | None:
    """The artifact folder of a store that is a file; None if it is not a file."""
    if store.embedded:
        return (store.root / ARTIFACTS).resolve()
    if store.uri.startswith(SQLITE):
        return Path(unquote(store.uri.removeprefix(SQLITE))).resolve().parent / ARTIFACTS
    return None
