"""What lies in a folder that a person names: pictures, other files, folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from train.config.parsing import suggestion
from train.data.folders.wording import by_kind, some
from train.data.images.file_kinds import COMPANIONS, EXTENSIONS, kind
from train.data.images.image import DataError
from train.files.paths import expanded
from train.text.display import readable, shortened

# what systems leave in folders, beside the names that begin with a dot (.DS_Store, ._a.jpg)
LEFT_BY_SYSTEMS = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir", "#recycle",
    "system volume information", "lost+found", "__pycache__",
}  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """What is visible in a folder, each in the order of the names.

    Attributes:
        pictures: files with the extension of a picture, broken links among them.
        others: all other files, and what is neither file nor folder.
    """

    pictures: list[Path]
    others: list[Path]
    folders: list[Path]

    @property
    def unread(self) -> list[Path]:
        """The other files, but for those that lie beside pictures and are none."""
        return [file for file in self.others if kind(file) not in COMPANIONS]


def existing_folder(path: str | Path, key: str) -> Path:
    """The folder that a setting names, `~` being a home.

    Raises:
        DataError: there is none, it is something else, or it may not be read.
    """
    text = str(path)
    if not text.strip():
        raise DataError(f"{key}: names no folder")
    folder = expanded(text)
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        near = suggestion(folder.name, _names_in(folder.parent))
        raise DataError(f"{key}: there is no folder {shortened(folder)}{readable(near)}") from None
    except NotADirectoryError:
        raise DataError(
            f"{key}: {shortened(folder)} is no folder; give the folder of the pictures"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(folder, key, error)) from None
    return folder


def contents_of(folder: Path, key: str) -> Contents:
    """What is visible in a folder.

    Raises:
        DataError: it cannot be read.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not _is_hidden(entry.name))
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(folder, key, error)) from None
    found = Contents([], [], [])
    for entry in entries:
        if os.path.isdir(entry):
            found.folders.append(entry)
        elif kind(entry) in EXTENSIONS and (os.path.isfile(entry) or not os.path.exists(entry)):
            found.pictures.append(entry)
        else:
            found.others.append(entry)
    return found


def has_pictures(folder: Path) -> bool:
    """Whether there is a picture in the folder itself; so it seems where it cannot be read, and
    whoever reads it says why."""
    try:
        return bool(contents_of(folder, "").pictures)
    except DataError:
        return True


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture in the folder or in one right inside of it, as `has_pictures`."""
    return has_pictures(folder) or any(map(has_pictures, contents_of(folder, "").folders))


def no_picture_in(folder: Path) -> str:
    """That there is no picture in a folder, and what there is instead."""
    kinds = ", ".join(sorted(EXTENSIONS))
    said = f"no picture ({kinds}) in {shortened(folder)}"
    contents = contents_of(folder, "")
    if inside := [one for one in contents.folders if holds_pictures(one)]:
        return (
            f"{said} itself; there are some in its subfolders ({some(inside)}): give one of them, "
            "or put repeats in front of their names, as in 10_name"
        )
    if unread := contents.unread:
        return f"{said}; {by_kind(unread)} cannot be read: save them as png or jpg"
    return f"{said}{'' if contents.others or contents.folders else ', which is empty'}"


def _names_in(folder: Path) -> list[str]:
    try:
        return [inside.name for inside in folder.iterdir() if os.path.isdir(inside)]
    except OSError:
        return []


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def _unreadable(folder: Path, key: str, error: OSError | ValueError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{key}: the folder {shortened(folder)} cannot be read ({reason})"
