"""The only way to a study's folder: its name is one, and nothing in it leads out of it.

A study may have come from somebody else. A link in it would have its files read, and ours written,
wherever it points; a pipe or a device would be waited for without end.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from itertools import islice
from pathlib import Path

from train.errors import ConfigError
from train.files.atomic_write import keep_links_out
from train.text.display import shortened

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
STUDIES = "studies"  # below the root
MAX_ENTRIES = 2_000_000  # entries; of trials at the limit of a study there may be some more
MAX_DEPTH = 8  # folders within each other; our own are three


def study_folder(root: Path, name: str, key: str = "study") -> Path:
    """A study's folder, looked through once; whether it is there is not asked.

    The root and the folder of studies may be links that a person has made. The study and what is
    in it may not.

    Args:
        root: the folder of all studies and of MLflow's embedded store.
        key: the setting that has the name, for the message.

    Raises:
        ConfigError: no such name is possible, or the folder has a link, a pipe or a device in it.
    """
    check_name(name, key)
    return checked_folder(root / STUDIES / name)


def studies_in(root: Path) -> list[str]:
    """The names of the studies that may be entered; those that lead elsewhere are left out."""
    names = []
    for folder in sorted((root / STUDIES).glob("*")):
        with suppress(ConfigError):
            names.append(study_folder(root, folder.name).name)
    return names


def check_name(name: str, key: str) -> None:
    """Refuses what cannot be a study's name.

    Raises:
        ConfigError: it names the setting.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{key}: {shortened(repr(name))} may hold letters, digits, '.', '_' and '-' only, "
            "80 of them at most, and begins with a letter or a digit"
        )


def checked_folder(folder: Path) -> Path:
    """A folder that leads nowhere else, and through whose links, if any appear, no file is written.

    Raises:
        ConfigError: there is a link, a pipe or a device in it, or it has no end.
    """
    keep_links_out(folder)
    if folder.is_symlink():
        raise _refusal(folder, "a link")
    pending, count = [(folder, 1)], 0
    while pending:
        place, depth = pending.pop()
        for entry in _entries(place):
            count += 1
            if entry.is_symlink():
                raise _refusal(Path(entry.path), "a link")
            if entry.is_dir(follow_symlinks=False):
                pending.append((Path(entry.path), depth + 1))
            elif not entry.is_file(follow_symlinks=False) and _is_special(entry.path):
                raise _refusal(Path(entry.path), "a pipe, a socket or a device")
        if depth > MAX_DEPTH or count > MAX_ENTRIES:
            excess = (
                f"more than {MAX_ENTRIES:,} files"
                if count > MAX_ENTRIES
                else f"over {MAX_DEPTH} levels of it"
            )
            raise ConfigError(f"{shortened(folder)}: is no study's folder, it has {excess}")
    return folder


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return [*islice(entries, MAX_ENTRIES + 1)]
    except FileNotFoundError:  # not begun yet, or removed by another process just now
        return []


def _is_special(path: str) -> bool:
    """Whether there is something that is no file; a file may be renamed at this moment."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _refusal(place: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{shortened(place)}: is {what}, and a study holds files and folders of its own alone; "
        "remove it, or put a copy of what it stands for in its place"
    )
