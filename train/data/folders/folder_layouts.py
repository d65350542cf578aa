"""Folder layouts: one folder; images/ and captions/; kohya's 10_name subfolders."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from train.data.folders.folder_contents import (
    contents_of,
    existing_folder,
    has_images,
    has_images_in_tree,
    no_image_message,
)
from train.data.folders.folder_names import MAX_REPEATS, folder_name
from train.data.folders.wording import count_noun, first_names
from train.data.images.image import DataError
from train.data.images.subset import Subset
from train.text.display import name_as_words, readable
from train.text.shell import in_setting

VALIDATION = "validation"
IMAGES, CAPTIONS = ("images", "img", "image", "imgs"), ("captions", "caption")
CLASS_FOLDERS = ("reg", "regularization", "regularisation")
MANY_REPEATS = 100  # from which on a warning is given


@dataclass(frozen=True)
class Layout:
    """The subsets of a folder, and warnings about its other content.

    Attributes:
        validation: a folder of held-out images in it.
    """

    subsets: list[Subset]
    warnings: list[str]
    validation: Path | None = None


def read_layout(path: str | Path, key: str, defaults: Subset) -> Layout:
    """The subsets of a folder with any of the layouts.

    Args:
        key: the setting that names the folder.
        defaults: for everything except the paths and what a folder's name states.

    Raises:
        DataError: no such folder, one that cannot be read, or no image in it.
    """
    reader = _LayoutReader(key, defaults)
    subsets = reader.read(existing_folder(path, key))
    return Layout(subsets, reader.warnings, reader.validation)


class _LayoutReader:
    def __init__(self, key: str, defaults: Subset) -> None:
        self.key, self.defaults = key, defaults
        self.warnings: list[str] = []
        self.validation: Path | None = None
        self.visited: set[str] = set()

    def read(self, folder: Path, captions: Path | None = None) -> list[Subset]:
        """The subsets of a folder.

        Args:
            captions: the folder of its caption files; None: they are next to the images.

        Raises:
            DataError: there is no image.
        """
        self.visited.add(os.path.realpath(folder))
        contents = contents_of(folder, self.key)
        folders = self._without_validation(contents.folders)
        if contents.images:
            self._warn_of_skipped(folders)
            return [self._single_subset(folder, captions)]
        by_name = {inside.name.lower(): inside for inside in folders}
        images = next((by_name[name] for name in IMAGES if name in by_name), None)
        if images and has_images_in_tree(images):
            caption_folder = next((by_name[name] for name in CAPTIONS if name in by_name), None)
            self._warn_of_skipped(
                [inside for inside in folders if inside not in (images, caption_folder)]
            )
            return self.read(images, caption_folder or captions)
        if subsets := self._numbered_subsets(folders, captions):
            return subsets
        # an unpacked archive; a link may lead back to a folder that was visited
        if len(folders) == 1 and os.path.realpath(folders[0]) not in self.visited:
            return self.read(folders[0], captions)
        raise DataError(f"{self.key}: {no_image_message(folder)}")

    def _single_subset(self, folder: Path, captions: Path | None) -> Subset:
        """The subset of a single folder; its name may still give the repeats.

        For the path `.` that is the name of the working folder.
        """
        name = Path(os.path.abspath(folder)).name
        subset = self._subset_by_name(name) if "_" in name else self.defaults
        if subset is not self.defaults:
            self.warnings.append(
                f"{readable(name)}: its name sets {count_noun(subset.repeats, 'repeat')} (instead "
                f"of data.repeats) and images without a caption {subset.class_words!r}"
            )
        return replace(subset, folder=folder, captions=captions or folder)

    def _numbered_subsets(self, folders: list[Path], captions: Path | None) -> list[Subset]:
        """kohya's subsets: the folders whose names begin with a number."""
        numbered = [inside for inside in folders if _is_numbered(inside.name)]
        filled = [inside for inside in numbered if has_images(inside)]
        skipped = [readable(inside.name) for inside in folders if inside not in numbered]
        if filled and skipped:
            self.warnings.append(
                f"skipped because there is no number of repeats in the name (as in 10_name): "
                f"{', '.join(skipped)}"
            )
        if filled and len(filled) < len(numbered):
            empty = [inside for inside in numbered if inside not in filled]
            self.warnings.append(f"skipped because there is no image in it: {first_names(empty)}")
        subsets = []
        for inside in filled:
            caption_folder = captions / inside.name if captions else inside
            if captions and not caption_folder.is_dir():
                caption_folder = captions
            subsets.append(
                replace(self._subset_by_name(inside.name), folder=inside, captions=caption_folder)
            )
        return subsets

    def _subset_by_name(self, name: str) -> Subset:
        """The defaults, with the repeats and class words of a folder's name."""
        parsed, display_name = folder_name(name), readable(name)
        if not parsed or not parsed.number:
            return self.defaults
        if not parsed.has_repeats:
            self.warnings.append(
                f"{display_name}: {parsed.digits} is more than {MAX_REPEATS} and therefore not a "
                f"number of repeats; its images get {self.defaults.repeats} (data.repeats)"
            )
            return self.defaults
        if parsed.number >= MANY_REPEATS:
            self.warnings.append(
                f"{display_name}: its name says that an epoch shows each of its images "
                f"{parsed.number} times; if the number means something else, give the folder "
                "another name"
            )
        words = name_as_words(parsed.words).strip() or self.defaults.class_words
        return replace(self.defaults, class_words=words, repeats=parsed.number)

    def _without_validation(self, folders: list[Path]) -> list[Path]:
        inside = [folder for folder in folders if folder.name.lower() == VALIDATION]
        self.validation = self.validation or next(iter(inside), None)
        return [folder for folder in folders if folder not in inside]

    def _warn_of_skipped(self, folders: list[Path]) -> None:
        skipped = [folder for folder in folders if has_images_in_tree(folder)]
        if skipped:
            self.warnings.append(
                "subfolders are not read if there are images next to them: "
                f"{', '.join(readable(folder.name) for folder in skipped)}"
            )
        self.warnings += [
            f"{readable(folder.name)}: images of the class are read by "
            f"{in_setting('data.regularization_path', folder)}"
            for folder in skipped
            if folder.name.lower() in CLASS_FOLDERS and not self.defaults.regularization
        ]


def _is_numbered(name: str) -> bool:
    parsed = folder_name(name)
    return bool(parsed and parsed.number)
