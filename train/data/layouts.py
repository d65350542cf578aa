"""The layouts that people have: one folder; images/ and captions/; kohya's 10_name subfolders."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from train.data.picture import EXTENSIONS, DataError
from train.data.subset import Subset

VALIDATION = "validation"
NUMBERED = re.compile(r"(\d+)(?:_(.*))?")  # kohya's: repeats, then the class words


@dataclass(frozen=True)
class Found:
    """The subsets of a folder, and what was passed over in it."""

    subsets: list[Subset]
    warnings: list[str]


def read_layout(folder: Path, key: str, like: Subset) -> Found:
    """The subsets of a folder, whatever its layout.

    Args:
        key: the setting that names the folder.
        like: how its pictures are read, but for the places, and what a folder's name says.

    Raises:
        DataError: no such folder.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataError(f"{key}: there is no folder {folder}")
    if has_pictures(folder):
        return Found([replace(like, folder=folder, captions=folder)], _passed_over(folder))
    if (images := folder / "images").is_dir():
        beside = folder / "captions"
        captions = beside if beside.is_dir() else images
        return Found([replace(like, folder=images, captions=captions)], [])
    return _numbered(folder, like)


def has_pictures(folder: Path) -> bool:
    """Whether there is a picture in the folder itself."""
    return any(file.suffix.lower() in EXTENSIONS for file in folder.iterdir())


def _numbered(folder: Path, like: Subset) -> Found:
    subsets, skipped = [], []
    for inside in _subfolders(folder):
        match = NUMBERED.fullmatch(inside.name)
        if not match or not int(match[1]):
            skipped.append(inside.name)
            continue
        words = (match[2] or "").strip() or like.class_words
        subsets.append(
            replace(like, folder=inside, captions=inside, class_words=words, repeats=int(match[1]))
        )
    warnings = []
    if subsets and skipped:
        warnings.append(
            f"skipped, for there is no number of repeats in the name (as in 10_name): "
            f"{', '.join(skipped)}"
        )
    return Found(subsets or [replace(like, folder=folder, captions=folder)], warnings)


def _passed_over(folder: Path) -> list[str]:
    names = [inside.name for inside in _subfolders(folder) if has_pictures(inside)]
    if not names:
        return []
    return [f"subfolders are not read where pictures lie beside them: {', '.join(names)}"]


def _subfolders(folder: Path) -> list[Path]:
    return [
        inside
        for inside in sorted(folder.iterdir())
        if inside.is_dir() and inside.name != VALIDATION and not inside.name.startswith(".")
    ]
