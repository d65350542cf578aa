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

from train.config import CONF
from train.paths import expanded

SHIPPED = (CONF, CONF.parent / "train", CONF.parent / "evaluate")
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
    file system, and so do the pictures and models that come with the program.

    Args:
        here: whether the folder in which the command was started counts.
    """
    try:
        real = place.resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, a circle of links
        return False
    started = Path.cwd()
    named = [Path(folder) for folder in _known()["folders"]]
    named += [started] if here and started != Path(started.anchor) else []
    return any(real.is_relative_to(folder) for folder in (*named, *SHIPPED))


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
