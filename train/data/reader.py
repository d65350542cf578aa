"""Reads folders into images with their captions, and examines each file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from train.config.schema import EMBEDDED, EMBEDDED_IMAGES, DataConfig
from train.config.trigger_check import TRIGGER_EXAMPLE
from train.data.batching import crop_of
from train.data.captions.caption_checks import caption_warnings
from train.data.captions.caption_files import (
    Caption,
    CaptionFiles,
    check_caption_link,
    read_caption,
)
from train.data.folders.dataset_toml import class_of, read_dataset_config
from train.data.folders.folder_contents import contents_of, existing_folder, no_image_message
from train.data.folders.folder_layouts import read_layout
from train.data.folders.wording import count_by_extension, count_noun, first_names, plural_form
from train.data.image_checks import ExaminedImage, examine
from train.data.images.buckets import framing_of
from train.data.images.image import DataError, TrainingImage
from train.data.images.subset import Subset
from train.files.paths import expanded
from train.text.display import name_as_words, readable

EMBEDDED_FOLDERS = {
    name: Path(__file__).parents[1] / "puppets" / "pictures" / folder
    for name, folder in {
        EMBEDDED: "character", "puppets_object": "object", "puppets_style": "style",
    }.items()
}  # fmt: skip
EMBEDDED_FOLDER = EMBEDDED_FOLDERS[EMBEDDED]  # of the default images
SKIP = "skip"


class DatasetReader:
    """Reads the folders of the settings.

    Attributes:
        key: the setting that names the training images.
        trigger: normalized for captions and prompts.
        warnings: about what was read.
        examined: the properties of each file.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.key = "data.dataset_config" if config.dataset_config else "data.path"
        self.trigger = name_as_words(" ".join(config.trigger_words.split()))
        self.warnings: list[str] = []
        self.examined: dict[Path, ExaminedImage] = {}
        self.framing = framing_of(config)
        self.folder = str(EMBEDDED_FOLDERS.get(config.path, config.path))
        self.validation_folder: Path | None = None  # held-out images in the subject's folder
        self.defaults = Subset(
            folder=Path(self.folder),
            captions=Path(self.folder),
            extension=config.caption_extension,
            class_words=name_as_words(" ".join(config.default_caption.split())),
            repeats=config.repeats,
            shuffle_caption=config.shuffle_caption,
            keep_tokens=config.keep_tokens,
            flip=config.flip,
            color_augmentation=config.color_augmentation,
        )

    def subject(self) -> tuple[list[TrainingImage], tuple[int, ...]]:
        """The images to train on, and the batch sizes of a dataset_config."""
        if not self.config.dataset_config:
            images, self.validation_folder = self._read_layout(self.folder, self.key, self.defaults)
            return images, ()
        if self.config.path not in EMBEDDED_IMAGES:
            self.warnings.append("data.path is not read: data.dataset_config names the folders")
        config = read_dataset_config(self.config, self.defaults)
        self.warnings += config.warnings
        images = [i for s in config.subsets for i in self._read(s, self.key, s.folder)]
        return images, config.batch_sizes

    def regularization(self) -> list[TrainingImage]:
        """The images of `data.regularization_path`."""
        path = self.config.regularization_path
        if path is None:
            return []
        words = class_of(self.trigger) if self.defaults.class_words else ""
        defaults = replace(self.defaults, class_words=words, repeats=1, regularization=True)
        return self._read_layout(path, "data.regularization_path", defaults)[0]

    def held_out(self) -> list[TrainingImage] | None:
        """The images of a validation folder, after `subject` was read; None if there is no such
        folder."""
        path = self.config.validation_path
        folder = path if path is not None else self.validation_folder
        if folder is None:
            return None
        key = self.key if path is None else "data.validation_path"
        root = self.folder if path is None else folder
        return self._read_layout(folder, key, replace(self.defaults, repeats=1), root)[0]

    def _read_layout(
        self, folder: str | Path, key: str, defaults: Subset, root: str | Path | None = None
    ) -> tuple[list[TrainingImage], Path | None]:
        """The images of a folder, and a folder of held-out images in it.

        Args:
            root: the folder that the user named, if this one was found in it.
        """
        layout = read_layout(folder, key, defaults)
        self.warnings += layout.warnings
        named = expanded(root or folder)
        images = [image for subset in layout.subsets for image in self._read(subset, key, named)]
        return images, layout.validation

    def _read(self, subset: Subset, key: str, root: Path) -> list[TrainingImage]:
        """The images of a subset.

        Args:
            root: the folder that the user named, in which the subset was found.

        Raises:
            DataError: there are none, or one is broken and `data.on_error` is not skip.
        """
        contents = contents_of(existing_folder(subset.folder, key), key)
        if not contents.images:
            raise DataError(f"{key}: {no_image_message(subset.folder)}")
        separate = contents_of(subset.captions, key) if subset.captions != subset.folder else None
        files = CaptionFiles([*(separate.others if separate else []), *contents.others],
                             subset.extension)  # fmt: skip
        images, captions, broken = [], [], []
        for file in contents.images:
            caption_file = files.file_of(file)
            try:
                examined = self.examined.get(file) or examine(file)
                caption = Caption("")
                if caption_file:
                    check_caption_link(caption_file, root)
                    caption = read_caption(caption_file)
                image = TrainingImage(
                    file, caption.text or subset.class_words, examined.sha256, examined.content,
                    examined.size, subset, subset.repeats,
                )  # fmt: skip
                crop_of(image, subset.framing or self.framing)
            except DataError as error:
                if self.config.on_error != SKIP:
                    raise DataError(f"{error}; data.on_error=skip continues without it") from error
                broken.append(str(error))
                continue
            self.examined[file] = examined
            captions.append(caption)
            images.append(image)
        self.warnings += [f"skipped: {words}" for words in broken]
        if not images:
            raise DataError(
                f"{key}: every image in {readable(str(subset.folder))} is broken ({broken[0]})"
            )
        uncaptioned = [i.path for i, c in zip(images, captions, strict=True) if not c.text]
        if uncaptioned and not subset.class_words and self.config.trigger is None:
            raise DataError(
                f"data.trigger: {len(uncaptioned)} of {count_noun(len(images), 'image')} in "
                f"{readable(subset.folder.name)} {plural_form(len(uncaptioned), 'has', 'have')} no "
                f"caption ({first_names(uncaptioned)}); give {TRIGGER_EXAMPLE}, or data.trigger='' "
                "for empty captions"
            )
        if contents.unread:
            self.warnings.append(
                f"not read in {readable(subset.folder.name)}: "
                f"{count_by_extension(contents.unread)}; save images as png or jpg"
            )
        self.warnings += caption_warnings(subset, images, captions, files, contents, self.trigger)
        return images
