"""What the user has named: files may not name anything else.

A file or a store may say which images, classes and models a run had. It does not decide what is
read or imported now: that must be below a folder that the user named, or a class that ships with
conf/, or one that was allowed by name. Commands fill this from their command line only, and the
processes that they start inherit it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from train.config.schema import CONF
from train.files.paths import expanded, is_remote

SHIPPED_FOLDERS = (CONF, CONF.parent / "train", CONF.parent / "evaluate")
PROGRAM_FOLDERS = tuple(
    CONF.parent / name
    for name in ("train", "evaluate", "sweeper", "hydra_plugins", "conf", "bench", "tests")
)
# files in the folder of a study, of a trial, and of anything that is logged as a run
RECORD_FILES = ("optuna.journal", "trial.json", "mlflow.json")
MLFLOW_FOLDERS = ("mlruns", "mlartifacts")  # MLflow's folders, anywhere
STORE_FOLDERS, STORE_FILE = (
    ("studies", "artifacts"),
    "mlflow.db",
)  # folders next to an embedded store
ENV_VARIABLE = "LORASWEEP_ALLOWED"  # an environment variable, which workers inherit


def allow(paths: Iterable[str | Path] = (), classes: Iterable[str] = ()) -> None:
    """Adds what the user has named.

    Args:
        paths: folders; a file stands for its folder.
        classes: dotted paths of classes that a file may name.
    """
    allowed = _load_allowed()
    allowed["folders"] += [folder for path in paths if (folder := _folder_of(expanded(path)))]
    allowed["classes"] += list(classes)
    os.environ[ENV_VARIABLE] = json.dumps(
        {key: [*dict.fromkeys(all)] for key, all in allowed.items()}
    )


def may_read(path: Path, include_cwd: bool = True) -> bool:
    """Whether a path, after following links, is below a folder that the user has named.

    The folder in which the command was started counts as named, unless it is the root of the file
    system, and so do the images and models that come with the program. Such paths may be read; for
    writing there is `may_write`.

    Args:
        include_cwd: whether the folder in which the command was started counts.
    """
    return _is_below(path, [*_named_folders(include_cwd), *SHIPPED_FOLDERS])


def is_foreign(path: str | Path) -> bool:
    """Whether a text from a file names another machine that the user has not named.

    Such a path must not be accessed, not even to check its existence, so this looks at the text
    only. Use it before any access that precedes `may_read`, which checks it too.
    """
    if not is_remote(path):
        return False
    text = str(path)
    if os.name == "posix" and text[0] == "/":
        text = f"/{text.lstrip('/')}"  # on POSIX it is a path of this machine
    normalized = Path(os.path.normpath(text))
    return not any(normalized.is_relative_to(folder) for folder in _named_folders(True))


def may_write(path: Path) -> bool:
    """Whether a file may name a path to write to: below a folder that the user has named.

    Unlike reading, it is never allowed in the program's own folders, nor where studies and MLflow
    keep their records.
    """
    if not _is_below(path, _named_folders(True)):
        return False
    real = path.resolve()
    return not any(_is_protected(folder) for folder in (real, *real.parents))


def _is_protected(folder: Path) -> bool:
    """Whether nothing may be written into a folder that only a file names."""
    name, exists = folder.name.casefold(), os.path.exists
    if name in MLFLOW_FOLDERS or any(exists(folder / record) for record in RECORD_FILES):
        return True
    if name in STORE_FOLDERS and exists(folder.parent / STORE_FILE):
        return True
    # compared by inode, since names have several spellings on some systems
    return exists(folder) and any(exists(own) and own.samefile(folder) for own in PROGRAM_FOLDERS)


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    if is_foreign(path):
        return False
    try:
        real = path.resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, a loop of links
        return False
    return any(real.is_relative_to(folder) for folder in folders)


def _named_folders(include_cwd: bool) -> list[Path]:
    """The folders that the user has named."""
    cwd = Path.cwd()
    named = [Path(folder) for folder in _load_allowed()["folders"]]
    return [*named, cwd] if include_cwd and cwd != Path(cwd.anchor) else named


def is_allowed_class(target: str) -> bool:
    """Whether the user has allowed this class by name (`--allow-class=`)."""
    return target in _load_allowed()["classes"]


def _folder_of(path: Path) -> str:
    """The folder of a path; empty if it cannot be resolved."""
    try:
        return str((path.parent if path.is_file() else path).resolve())
    except (OSError, ValueError, RuntimeError):  # reported when it is opened
        return ""


def _load_allowed() -> dict[str, list[str]]:
    allowed: dict[str, list[str]] = json.loads(os.environ.get(ENV_VARIABLE, "{}"))
    return {"folders": allowed.get("folders", []), "classes": allowed.get("classes", [])}
