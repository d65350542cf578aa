"""Checks where MLflow stores its runs, and says what to write if that cannot work."""

from __future__ import annotations

import re
import sqlite3
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from evaluate.tracking.database_file import open_database
from evaluate.tracking.store_address import DATABASE, URI_VARIABLE, embedded, tracking_uri
from train.config.parsing import cause, suggestion
from train.errors import ConfigError
from train.files.paths import expanded
from train.files.untrusted import UntrustedFileError
from train.text.shell import in_setting, in_shell

DATABRICKS = ("databricks", "databricks-uc", "uc")
SERVERS = ("http", "https", *DATABRICKS)
HOST = re.compile(r"[A-Za-z0-9.-]+:\d+(/.*)?")
TOO_FEW_SLASHES = re.compile(r"sqlite:/{0,2}([^/].*)")
SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)")
VERSION_TABLE = "alembic_version"  # the table with the schema version of a database
STATUS_CODE = re.compile(r"error code (\d{3})")
REFUSALS = {
    401: "requires authentication (401): set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "denies access (403): check the user's permissions, and the server's --allowed-hosts",
    404: "is not an MLflow server (404): check the address",
}


def check_tracking(root: Path) -> None:
    """Rejects a tracking URI or a database that cannot work, however long one waits.

    Raises:
        ConfigError: says what to write or which command to run.
    """
    uri = tracking_uri(root)
    if uri == embedded(root):
        if fault := _fault_of_file(root / DATABASE, uri):  # it may have been received
            raise ConfigError(f"MLflow's store: {fault}")
    elif fault := _fault(uri):
        raise ConfigError(f"{URI_VARIABLE}: {fault}")


def refusal_reason(error: Exception, uri: str) -> str:
    """Describes why a store that answered cannot be used; empty if it did not answer."""
    message = str(error)
    if match := SCHEMA.search(message):
        return _other_schema(match.group(1), uri)
    status = STATUS_CODE.search(message)
    refused = REFUSALS.get(int(status.group(1))) if status else None
    return f"{_without_password(uri)} {refused}" if refused else ""


def _fault(uri: str) -> str:
    scheme = urlsplit(uri).scheme.lower()
    if uri in DATABRICKS:
        return ""
    if HOST.fullmatch(uri):
        return f"{uri} has no scheme; set {in_setting(URI_VARIABLE, f'http://{uri}')}"
    if scheme in ("", "file") or len(scheme) == 1:  # C:\...
        return "" if MLFLOW_ALLOW_FILE_STORE.get() else _fault_of_folder(uri)
    engine = scheme.partition("+")[0]
    if engine in DATABASE_ENGINES:
        return _fault_of_database(uri)
    known = [*SERVERS, *DATABASE_ENGINES]
    plugins = [plugin.name for plugin in entry_points(group="mlflow.tracking_store")]
    if scheme in (*known, *plugins):
        return ""
    hint = suggestion(scheme, known)
    return f"{scheme}: is not a scheme that MLflow knows ({', '.join(known)}){hint}"


def _fault_of_folder(uri: str) -> str:
    path = expanded(re.sub("^file:(//)?", "", uri)).resolve()
    setting = in_setting(URI_VARIABLE, f"sqlite:///{path.as_posix()}/{DATABASE}")
    return (
        f"{uri} is a folder, and this MLflow keeps runs in a database only; set "
        f"{setting} (`mlflow migrate-filestore` copies "
        "what the folder holds), or unset it to use the store in study.root"
    )


def _fault_of_database(uri: str) -> str:
    if match := TOO_FEW_SLASHES.fullmatch(uri):
        return f"{uri} has too few slashes; write sqlite:///{match.group(1)}"
    try:
        url = make_url(uri)
        url.get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError) as error:
        return f"{_without_password(uri)} needs a driver that is not installed: {cause(error)}"
    except (ArgumentError, ValueError) as error:
        return f"{_without_password(uri)} cannot be read: {cause(error)}"
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return ""
    file = Path(str(url.database))
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    return _fault_of_file(file, uri, VERSION_TABLE)


def _fault_of_file(file: Path, uri: str, *tables: str) -> str:
    """Describes what is wrong with a SQLite file; a missing file is fine, as MLflow creates it.

    Args:
        tables: that must be tables; none: all must be.
    """
    if file.is_dir() and file.name == DATABASE:
        return f"{file} is a folder where a file should be; move it away, and a new file is created"
    if file.is_dir():
        return f"{file} is a folder; write {uri.rstrip('/')}/{DATABASE}"
    try:
        with open_database(file, *tables) as database:
            row = database.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    except UntrustedFileError as error:
        return (
            f"{error}; move it away, and everything that the studies' folders hold is logged again"
        )
    except FileNotFoundError:
        return ""
    except sqlite3.OperationalError:  # no such table, locked, or empty: left to MLflow
        return ""
    except sqlite3.DatabaseError as error:
        return (
            f"{file} is damaged ({cause(error)}); move it away, and everything that the studies' "
            "folders hold is logged into a new one"
        )
    return _other_schema(str(row[0]), uri) if row else ""


def _other_schema(version: str, uri: str) -> str:
    """Describes how a database's schema differs from this MLflow's; empty if it does not."""
    config = Config()
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    if version == script.get_current_head():
        return ""
    try:
        script.get_revision(version)
    except CommandError:
        return (
            f"{_without_password(uri)} was written by a newer MLflow than this one "
            f"({mlflow.__version__}); pip install --upgrade mlflow"
        )
    return (
        f"{_without_password(uri)} has the schema of an older MLflow than this one "
        f"({mlflow.__version__}); make a copy of it, then run: mlflow db upgrade "
        f"{in_shell(_without_password(uri))}"
    )


def _without_password(uri: str) -> str:
    """The URI without its password."""
    return re.sub(r"(//[^:/@]+):[^@]*@", r"\1:***@", uri)
