"""The layouts that people have: one folder; images/ and captions/; kohya's 10_name subfolders."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from train.data.folders.folder_contents import (
    contents_of,
    existing_folder,
    has_pictures,
    holds_pictures,
    no_picture_in,
)
from train.data.folders.folder_names import MOST_REPEATS, folder_name
from train.data.folders.wording import counted, some
from train.data.images.image import DataError
from train.data.images.subset import Subset
from train.text.display import readable, worded
from train.text.shell import in_setting

VALIDATION = "validation"
IMAGES, CAPTIONS = ("images", "img", "image", "imgs"), ("captions", "caption")
CLASS_PICTURES = ("reg", "regularization", "regularisation")
MANY_REPEATS = 100  # from which on it is said


@dataclass(frozen=True)
class Found:
    """The subsets of a folder, and what was passed over in it.

    Attributes:
        validation: the folder in it for held-out pictures.
    """

    subsets: list[Subset]
    warnings: list[str]
    validation: Path | None = None


def read_layout(path: str | Path, key: str, like: Subset) -> Found:
    """The subsets of a folder, whatever its layout.

    Args:
        key: the setting that names the folder.
        like: how its pictures are read, but for the places, and what a folder's name says.

    Raises:
        DataError: no such folder, one that cannot be read, or no picture in it.
    """
    layout = _Layout(key, like)
    subsets = layout.read(existing_folder(path, key))
    return Found(subsets, layout.warnings, layout.validation)


class _Layout:
    def __init__(self, key: str, like: Subset) -> None:
        self.key, self.like = key, like
        self.warnings: list[str] = []
        self.validation: Path | None = None
        self.visited: set[str] = set()

    def read(self, folder: Path, captions: Path | None = None) -> list[Subset]:
        """The subsets of a folder.

        Args:
            captions: the folder of its caption files; None: they lie beside the pictures.

        Raises:
            DataError: there is no picture.
        """
        self.visited.add(os.path.realpath(folder))
        contents = contents_of(folder, self.key)
        folders = self._without_validation(contents.folders)
        if contents.pictures:
            self._pass_over(folders)
            return [self._alone(folder, captions)]
        by_name = {inside.name.lower(): inside for inside in folders}
        images = next((by_name[name] for name in IMAGES if name in by_name), None)
        if images and holds_pictures(images):
            beside = next((by_name[name] for name in CAPTIONS if name in by_name), None)
            self._pass_over([inside for inside in folders if inside not in (images, beside)])
            return self.read(images, beside or captions)
        if subsets := self._numbered(folders, captions):
            return subsets
        # as archives are unpacked; a link may lead back to where it is
        if len(folders) == 1 and os.path.realpath(folders[0]) not in self.visited:
            return self.read(folders[0], captions)
        raise DataError(f"{self.key}: {no_picture_in(folder)}")

    def _alone(self, folder: Path, captions: Path | None) -> Subset:
        """The subset of a folder that is none of several; its name may have a number all the same.

        The name of the working folder counts as well, where the path is `.`.
        """
        name = Path(os.path.abspath(folder)).name
        like = self._named(name) if "_" in name else self.like
        if like is not self.like:
            self.warnings.append(
                f"{readable(name)}: its name gives {counted(like.repeats, 'repeat')} (instead of "
                f"data.repeats) and pictures without a caption {like.class_words!r}"
            )
        return replace(like, folder=folder, captions=captions or folder)

    def _numbered(self, folders: list[Path], captions: Path | None) -> list[Subset]:
        """kohya's subsets: the folders with a number in front of their names."""
        numbered = [inside for inside in folders if _is_numbered(inside.name)]
        filled = [inside for inside in numbered if has_pictures(inside)]
        skipped = [readable(inside.name) for inside in folders if inside not in numbered]
        if filled and skipped:
            self.warnings.append(
                f"skipped, for there is no number of repeats in the name (as in 10_name): "
                f"{', '.join(skipped)}"
            )
        if filled and len(filled) < len(numbered):
            empty = [inside for inside in numbered if inside not in filled]
            self.warnings.append(f"skipped, for there is no picture in it: {some(empty)}")
        subsets = []
        for inside in filled:
            beside = captions / inside.name if captions else inside
            if captions and not beside.is_dir():
                beside = captions
            subsets.append(replace(self._named(inside.name), folder=inside, captions=beside))
        return subsets

    def _named(self, name: str) -> Subset:
        """How the pictures of a folder of this name are read."""
        found, shown = folder_name(name), readable(name)
        if not found or not found.number:
            return self.like
        if not found.has_repeats:
            self.warnings.append(
                f"{shown}: {found.digits} is more than {MOST_REPEATS} and so no number of repeats; "
                f"its pictures have {self.like.repeats} (data.repeats)"
            )
            return self.like
        if found.number >= MANY_REPEATS:
            self.warnings.append(
                f"{shown}: by its name an epoch shows each of its pictures {found.number} times; "
                "if the number means something else, give the folder another name"
            )
        words = worded(found.words).strip() or self.like.class_words
        return replace(self.like, class_words=words, repeats=found.number)

    def _without_validation(self, folders: list[Path]) -> list[Path]:
        inside = [folder for folder in folders if folder.name.lower() == VALIDATION]
        self.validation = self.validation or next(iter(inside), None)
        return [folder for folder in folders if folder not in inside]

    def _pass_over(self, folders: list[Path]) -> None:
        left = [folder for folder in folders if holds_pictures(folder)]
        if left:
            self.warnings.append(
                "subfolders are not read where pictures lie beside them: "
                f"{', '.join(readable(folder.name) for folder in left)}"
            )
        self.warnings += [
            f"{readable(folder.name)}: pictures of the class are read by "
            f"{in_setting('data.regularization_path', folder)}"
            for folder in left
            if folder.name.lower() in CLASS_PICTURES and not self.like.regularization
        ]


def _is_numbered(name: str) -> bool:
    found = folder_name(name)
    return bool(found and found.number)
