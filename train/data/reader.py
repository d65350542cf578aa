"""Folders -> pictures with their captions, each file looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from train.config.schema import EMBEDDED, DataConfig
from train.config.trigger_check import SAY
from train.data.batching import frame_of
from train.data.captions.caption_checks import caption_warnings
from train.data.captions.caption_files import (
    Caption,
    CaptionFiles,
    check_caption_link,
    read_caption,
)
from train.data.folders.dataset_toml import class_of, read_dataset_config
from train.data.folders.folder_contents import contents_of, existing_folder, no_picture_in
from train.data.folders.folder_layouts import read_layout
from train.data.folders.wording import agreed, by_kind, counted, some
from train.data.image_checks import Examined, examine
from train.data.images.buckets import framing_of
from train.data.images.image import DataError, TrainingImage
from train.data.images.subset import Subset
from train.files.paths import expanded
from train.text.display import readable, worded

EMBEDDED_FOLDER = Path(__file__).parents[1] / "puppets" / "pictures" / "narrow"
SKIP = "skip"


class DatasetReader:
    """Reads the folders of the settings.

    Attributes:
        key: the setting that names the training pictures.
        trigger: as it can stand in captions and prompts.
        warnings: what is to be said about what was read.
        seen: what each file showed.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.key = "data.dataset_config" if config.dataset_config else "data.path"
        self.trigger = worded(" ".join(config.trigger_words.split()))
        self.warnings: list[str] = []
        self.seen: dict[Path, Examined] = {}
        self.framing = framing_of(config)
        embedded = config.path == EMBEDDED
        self.folder = str(EMBEDDED_FOLDER) if embedded else config.path
        self.inside: Path | None = None  # the folder of held-out pictures in that of the subject
        self.like = Subset(
            folder=Path(self.folder),
            captions=Path(self.folder),
            extension=config.caption_extension,
            class_words=worded(" ".join(config.bare_caption.split())),
            repeats=config.repeats,
            shuffle_caption=config.shuffle_caption,
            keep_tokens=config.keep_tokens,
            flip=config.flip,
            color_augmentation=config.color_augmentation,
        )

    def subject(self) -> tuple[list[TrainingImage], tuple[int, ...]]:
        """The pictures to train on, and the batch sizes that are asked for with them."""
        if not self.config.dataset_config:
            found, self.inside = self._read_layout(self.folder, self.key, self.like)
            return found, ()
        if self.config.path != EMBEDDED:
            self.warnings.append("data.path is not read: data.dataset_config names the folders")
        named = read_dataset_config(self.config, self.like)
        self.warnings += named.warnings
        pictures = [p for one in named.subsets for p in self._read(one, self.key, one.folder)]
        return pictures, named.batch_sizes

    def regularization(self) -> list[TrainingImage]:
        """Those of `data.regularization_path`."""
        path = self.config.regularization_path
        if path is None:
            return []
        words = class_of(self.trigger) if self.like.class_words else ""
        like = replace(self.like, class_words=words, repeats=1, regularization=True)
        return self._read_layout(path, "data.regularization_path", like)[0]

    def held_out(self) -> list[TrainingImage] | None:
        """The pictures of a folder for validation, after `subject` was read; None where there is no
        such folder."""
        path = self.config.validation_path
        folder = path if path is not None else self.inside
        if folder is None:
            return None
        key = self.key if path is None else "data.validation_path"
        root = self.folder if path is None else folder
        return self._read_layout(folder, key, replace(self.like, repeats=1), root)[0]

    def _read_layout(
        self, folder: str | Path, key: str, like: Subset, root: str | Path | None = None
    ) -> tuple[list[TrainingImage], Path | None]:
        """The pictures of a folder, and the one in it for held-out ones.

        Args:
            root: the folder that was named, where this one was found in it.
        """
        found = read_layout(folder, key, like)
        self.warnings += found.warnings
        named = expanded(root or folder)
        pictures = [picture for one in found.subsets for picture in self._read(one, key, named)]
        return pictures, found.validation

    def _read(self, subset: Subset, key: str, root: Path) -> list[TrainingImage]:
        """The pictures of a subset.

        Args:
            root: the folder that was named, in which the subset was found.

        Raises:
            DataError: there is none, or a broken one and `data.on_error` is not skip.
        """
        contents = contents_of(existing_folder(subset.folder, key), key)
        if not contents.pictures:
            raise DataError(f"{key}: {no_picture_in(subset.folder)}")
        beside = contents_of(subset.captions, key) if subset.captions != subset.folder else None
        files = CaptionFiles([*(beside.others if beside else []), *contents.others],
                             subset.extension)  # fmt: skip
        pictures, captions, broken = [], [], []
        for file in contents.pictures:
            written = files.of(file)
            try:
                seen = self.seen.get(file) or examine(file)
                caption = Caption("")
                if written:
                    check_caption_link(written, root)
                    caption = read_caption(written)
                picture = TrainingImage(
                    file, caption.text or subset.class_words, seen.sha256, seen.content, seen.size,
                    subset, subset.repeats,
                )  # fmt: skip
                frame_of(picture, subset.framing or self.framing)
            except DataError as error:
                if self.config.on_error != SKIP:
                    raise DataError(f"{error}; data.on_error=skip goes on without it") from error
                broken.append(str(error))
                continue
            self.seen[file] = seen
            captions.append(caption)
            pictures.append(picture)
        self.warnings += [f"skipped: {words}" for words in broken]
        if not pictures:
            raise DataError(
                f"{key}: every picture in {readable(str(subset.folder))} is broken ({broken[0]})"
            )
        bare = [p.path for p, c in zip(pictures, captions, strict=True) if not c.text]
        if bare and not subset.class_words and self.config.trigger is None:
            raise DataError(
                f"data.trigger: {len(bare)} of {counted(len(pictures), 'picture')} in "
                f"{readable(subset.folder.name)} {agreed(len(bare), 'has', 'have')} no caption "
                f"({some(bare)}); give {SAY}, or data.trigger='' for empty captions"
            )
        if contents.unread:
            self.warnings.append(
                f"not read in {readable(subset.folder.name)}: {by_kind(contents.unread)}; "
                "save what is a picture as png or jpg"
            )
        self.warnings += caption_warnings(subset, pictures, captions, files, contents, self.trigger)
        return pictures
