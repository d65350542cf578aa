"""The content of a folder: images, other files, folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from train.config.parsing import suggestion
from train.config.schema import EMBEDDED_IMAGES
from train.data.folders.wording import count_by_extension, first_names
from train.data.images.file_kinds import COMPANION_EXTENSIONS, EXTENSIONS, extension_of
from train.data.images.image import DataError
from train.files.paths import expanded
from train.text.display import readable, shortened

# files of operating systems, besides those whose name begins with a dot (.DS_Store, ._a.jpg)
LEFT_BY_SYSTEMS = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir", "#recycle",
    "system volume information", "lost+found", "__pycache__",
}  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """The visible entries of a folder, each sorted by name.

    Attributes:
        images: files with the extension of an image, including broken links.
        others: all other files, and what is neither file nor folder.
    """

    images: list[Path]
    others: list[Path]
    folders: list[Path]

    @property
    def unread(self) -> list[Path]:
        """The other files, except those that usually lie next to images."""
        return [file for file in self.others if extension_of(file) not in COMPANION_EXTENSIONS]


def existing_folder(path: str | Path, key: str) -> Path:
    """The folder that a setting names; `~` is the home folder.

    Raises:
        DataError: it does not exist, is not a folder, or cannot be read.
    """
    text = str(path)
    if not text.strip():
        raise DataError(f"{key}: names no folder")
    folder = expanded(text)
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        known = [*_names_in(folder.parent), *(EMBEDDED_IMAGES if key == "data.path" else ())]
        hint = suggestion(folder.name, known)
        raise DataError(f"{key}: there is no folder {shortened(folder)}{readable(hint)}") from None
    except NotADirectoryError:
        raise DataError(
            f"{key}: {shortened(folder)} is not a folder; give the folder of the images"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(folder, key, error)) from None
    return folder


def contents_of(folder: Path, key: str) -> Contents:
    """The visible entries of a folder.

    Raises:
        DataError: it cannot be read.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not _is_hidden(entry.name))
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(folder, key, error)) from None
    contents = Contents([], [], [])
    for entry in entries:
        if os.path.isdir(entry):
            contents.folders.append(entry)
        elif extension_of(entry) in EXTENSIONS and (
            os.path.isfile(entry) or not os.path.exists(entry)
        ):
            contents.images.append(entry)
        else:
            contents.others.append(entry)
    return contents


def has_images(folder: Path) -> bool:
    """Whether the folder itself has an image; True for a folder that cannot be read, so that the
    reader reports the error."""
    try:
        return bool(contents_of(folder, "").images)
    except DataError:
        return True


def has_images_in_tree(folder: Path) -> bool:
    """Whether the folder or one of its subfolders has an image, as `has_images`."""
    return has_images(folder) or any(map(has_images, contents_of(folder, "").folders))


def no_image_message(folder: Path) -> str:
    """The message that there is no image in a folder, and what there is instead."""
    kinds = ", ".join(sorted(EXTENSIONS))
    message = f"no image ({kinds}) in {shortened(folder)}"
    contents = contents_of(folder, "")
    if subfolders := [one for one in contents.folders if has_images_in_tree(one)]:
        return (
            f"{message} itself; there are some in its subfolders ({first_names(subfolders)}): give "
            "one of them, or put repeats in front of their names, as in 10_name"
        )
    if unread := contents.unread:
        return f"{message}; {count_by_extension(unread)} cannot be read: save them as png or jpg"
    return f"{message}{'' if contents.others or contents.folders else ', which is empty'}"


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
