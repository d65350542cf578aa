"""What the person at the keyboard has named: no file may name more.

A file or a store may say which pictures, classes and models a run had. It does not decide what is
read or imported now: that is below a folder that the person named, or a class that ships with
conf/, or one that was allowed by name. Commands fill this from their command line alone, and the
processes that they start inherit it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from train.config.schema import CONF
from train.files.paths import expanded, is_remote

SHIPPED = (CONF, CONF.parent / "train", CONF.parent / "evaluate")
PROGRAM = tuple(
    CONF.parent / name
    for name in ("train", "evaluate", "sweeper", "hydra_plugins", "conf", "bench", "tests")
)
# what lies in the folder of a study, of a trial, and of whatever is logged as a run
RECORDS = ("optuna.journal", "trial.json", "mlflow.json")
OF_MLFLOW = ("mlruns", "mlartifacts")  # folders of its own, wherever they are
OF_A_STORE, STORE = ("studies", "artifacts"), "mlflow.db"  # folders beside an embedded store
VARIABLE = "LORASWEEP_ALLOWED"  # of the environment, so that workers know it too


def allow(places: Iterable[str | Path] = (), classes: Iterable[str] = ()) -> None:
    """Adds what a person has named.

    Args:
        places: folders; a file stands for the folder that it is in.
        classes: dotted paths of classes that a file may ask for.
    """
    known = _known()
    known["folders"] += [folder for place in places if (folder := _folder(expanded(place)))]
    known["classes"] += list(classes)
    os.environ[VARIABLE] = json.dumps({key: [*dict.fromkeys(all)] for key, all in known.items()})


def is_named(place: Path, here: bool = True) -> bool:
    """Whether a place, links followed, is below a folder that the person has named.

    The folder in which the command was started counts as named, unless it is the root of the
    file system, and so do the pictures and models that come with the program. What lies there may
    be read; for writing there is `may_write`.

    Args:
        here: whether the folder in which the command was started counts.
    """
    return _is_below(place, [*_named(here), *SHIPPED])


def is_foreign(place: str | Path) -> bool:
    """Whether a text from a file names another machine that the person has not named.

    Nothing may be asked of such a place, not even whether it is there, so this looks at the text
    alone. It is for whoever looks at a place before `is_named`, which asks it too.
    """
    if not is_remote(place):
        return False
    text = str(place)
    if os.name == "posix" and text[0] == "/":
        text = f"/{text.lstrip('/')}"  # there, it is a place of this machine's all the same
    written = Path(os.path.normpath(text))
    return not any(written.is_relative_to(folder) for folder in _named(True))


def may_write(place: Path) -> bool:
    """Whether a file may name a place to write: one below a folder that the person has named.

    Unlike what may be read, it is never in the program's own folders, nor where studies and
    MLflow keep what they know.
    """
    if not _is_below(place, _named(True)):
        return False
    real = place.resolve()
    return not any(_is_kept(folder) for folder in (real, *real.parents))


def _is_kept(folder: Path) -> bool:
    """Whether nothing that only a file names is written into a folder."""
    name, exists = folder.name.casefold(), os.path.exists
    if name in OF_MLFLOW or any(exists(folder / record) for record in RECORDS):
        return True
    if name in OF_A_STORE and exists(folder.parent / STORE):
        return True
    # not by their names, which have several spellings on some systems
    return exists(folder) and any(exists(own) and own.samefile(folder) for own in PROGRAM)


def _is_below(place: Path, folders: Iterable[Path]) -> bool:
    if is_foreign(place):
        return False
    try:
        real = place.resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, a circle of links
        return False
    return any(real.is_relative_to(folder) for folder in folders)


def _named(here: bool) -> list[Path]:
    """The folders that the person has named."""
    started = Path.cwd()
    named = [Path(folder) for folder in _known()["folders"]]
    return [*named, started] if here and started != Path(started.anchor) else named


def is_allowed(target: str) -> bool:
    """Whether a person has allowed this class by name (`--allow-class=`)."""
    return target in _known()["classes"]


def _folder(place: Path) -> str:
    """The folder that a place stands for; empty where there can be none."""
    try:
        return str((place.parent if place.is_file() else place).resolve())
    except (OSError, ValueError, RuntimeError):  # said by whoever opens it
        return ""


def _known() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(os.environ.get(VARIABLE, "{}"))
    return {"folders": found.get("folders", []), "classes": found.get("classes", [])}
