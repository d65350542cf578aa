"""The only way to a study's folder: checks its name, and that nothing in it leads out of it.

A study may come from somebody else. Through a link in it, files would be read and written wherever
the link points; reading a pipe or a device would block forever.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from itertools import islice
from pathlib import Path

from train.errors import ConfigError
from train.files.atomic_write import forbid_links
from train.text.display import shortened

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
STUDIES = "studies"  # below the root
MAX_ENTRIES = 2_000_000  # files and folders; a study with the most trials allowed may exceed it
MAX_DEPTH = 8  # levels of nested folders; this program's own studies have three


def study_folder(root: Path, name: str, key: str = "study") -> Path:
    """The checked path of a study's folder, which need not exist.

    The root and the folder of studies may be links that a person has made. The study and its
    contents may not.

    Args:
        root: the folder of all studies and of MLflow's embedded store.
        key: the setting that contains the name, for the error message.

    Raises:
        ConfigError: the name is invalid, or the folder contains a link, a pipe or a device.
    """
    check_name(name, key)
    return checked_folder(root / STUDIES / name)


def studies_in(root: Path) -> list[str]:
    """The names of all studies that pass the checks of `study_folder`; others are left out."""
    names = []
    for folder in sorted((root / STUDIES).glob("*")):
        with suppress(ConfigError):
            names.append(study_folder(root, folder.name).name)
    return names


def check_name(name: str, key: str) -> None:
    """Checks a study's name.

    Raises:
        ConfigError: the name is invalid; the message names the setting.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{key}: {shortened(repr(name))} must consist of at most 80 letters, digits, '.', '_' "
            "and '-', and start with a letter or a digit"
        )


def checked_folder(folder: Path) -> Path:
    """Checks that nothing in a folder leads out of it, and returns the folder.

    From then on, no file is written through a link that appears in it.

    Raises:
        ConfigError: it contains a link, a pipe or a device, or too many files or levels.
    """
    forbid_links(folder)
    if folder.is_symlink():
        raise _refusal(folder, "a link")
    pending, count = [(folder, 1)], 0
    while pending:
        current, depth = pending.pop()
        for entry in _entries(current):
            count += 1
            if entry.is_symlink():
                raise _refusal(Path(entry.path), "a link")
            if entry.is_dir(follow_symlinks=False):
                pending.append((Path(entry.path), depth + 1))
            elif not entry.is_file(follow_symlinks=False) and _is_special(entry.path):
                raise _refusal(Path(entry.path), "a pipe, a socket or a device")
        if depth > MAX_DEPTH or count > MAX_ENTRIES:
            excess = f"{MAX_ENTRIES:,} files" if count > MAX_ENTRIES else f"{MAX_DEPTH} levels"
            raise ConfigError(f"{shortened(folder)}: is not a study: it has more than {excess}")
    return folder


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [*islice(entries, MAX_ENTRIES + 1)]
    except FileNotFoundError:  # it does not exist yet, or another process has just removed it
        return []


def _is_special(path: str) -> bool:
    """Whether a path is neither a file nor a folder; False if it has just been renamed."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _refusal(path: Path, kind: str) -> ConfigError:
    return ConfigError(
        f"{shortened(path)}: is {kind}, but a study may contain only regular files and folders; "
        "remove it, or replace it with a copy of its target"
    )
