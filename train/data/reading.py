"""Folders -> pictures with their captions, each file looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from train.config import EMBEDDED, DataConfig
from train.data.captions import read_caption
from train.data.dataset_config import class_of, read_dataset_config
from train.data.examination import Examined, examine
from train.data.layouts import VALIDATION, read_layout
from train.data.picture import EXTENSIONS, DataError, Picture
from train.data.subset import Subset
from train.trigger_check import SAY

EMBEDDED_FOLDER = Path(__file__).parents[1] / "puppets" / "pictures" / "narrow"
SKIP = "skip"


class Reader:
    """Reads the folders of the settings.

    Attributes:
        key: the setting that names the training pictures.
        warnings: what is to be said about what was read.
        seen: what each file showed.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.key = "data.dataset_config" if config.dataset_config else "data.path"
        self.warnings: list[str] = []
        self.seen: dict[Path, Examined] = {}
        embedded = config.path == EMBEDDED
        self.folder = EMBEDDED_FOLDER if embedded else Path(config.path).expanduser()
        self.like = Subset(
            folder=self.folder,
            captions=self.folder,
            extension=config.caption_extension,
            class_words=config.bare_caption,
            repeats=config.repeats,
            shuffle_caption=config.shuffle_caption,
            keep_tokens=config.keep_tokens,
            flip=config.flip,
            color_augmentation=config.color_augmentation,
        )

    def subject(self) -> tuple[list[Picture], tuple[int, ...]]:
        """The pictures to train on, and the batch sizes that are asked for with them."""
        if not self.config.dataset_config:
            return self._read_layout(self.folder, self.key, self.like), ()
        if self.config.path != EMBEDDED:
            self.warnings.append("data.path is not read: data.dataset_config names the folders")
        found = read_dataset_config(self.config, self.like)
        self.warnings += found.warnings
        pictures = [p for subset in found.subsets for p in self._read(subset, self.key)]
        return pictures, found.batch_sizes

    def regularization(self) -> list[Picture]:
        """Those of `data.regularization_path`."""
        path = self.config.regularization_path
        if path is None:
            return []
        words = class_of(self.config.trigger_words) if self.like.class_words else ""
        like = replace(self.like, class_words=words, repeats=1, regularization=True)
        return self._read_layout(Path(path), "data.regularization_path", like)

    def held_out(self) -> list[Picture] | None:
        """The pictures of a folder for validation; None where there is no such folder."""
        path = self.config.validation_path
        inside = self.folder / VALIDATION
        if path is None and (self.config.dataset_config or not inside.is_dir()):
            return None
        key = "data.validation_path" if path else self.key
        return self._read_layout(Path(path) if path else inside, key, replace(self.like, repeats=1))

    def _read_layout(self, folder: Path, key: str, like: Subset) -> list[Picture]:
        found = read_layout(folder, key, like)
        self.warnings += found.warnings
        return [picture for subset in found.subsets for picture in self._read(subset, key)]

    def _read(self, subset: Subset, key: str) -> list[Picture]:
        """The pictures of a subset.

        Raises:
            DataError: there is none, or a broken one and `data.on_error` is not skip.
        """
        if not subset.folder.is_dir():
            raise DataError(f"{key}: there is no folder {subset.folder}")
        files = sorted(f for f in subset.folder.iterdir() if f.suffix.lower() in EXTENSIONS)
        pictures, bare, broken = [], [], []
        for file in files:
            try:
                seen = examine(file)
            except DataError as error:
                if self.config.on_error != SKIP:
                    raise DataError(f"{error}; data.on_error=skip goes on without it") from error
                broken.append(str(error))
                continue
            self.seen[file] = seen
            caption = read_caption(subset.captions / f"{file.stem}{subset.extension}")
            if not caption:
                bare.append(file.name)
            pictures.append(
                Picture(file, caption or subset.class_words, seen.sha256, seen.content, seen.size,
                        subset, subset.repeats)
            )  # fmt: skip
        self.warnings += [f"skipped: {words}" for words in broken]
        if not pictures:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise DataError(f"{key}: no picture ({kinds}) in {subset.folder}")
        if bare:
            self._say_bare(subset, bare, len(pictures))
        self._look_for_trigger(pictures)
        return pictures

    def _say_bare(self, subset: Subset, bare: list[str], total: int) -> None:
        words = subset.class_words
        if not words and self.config.trigger is None:
            raise DataError(
                f"data.trigger: {len(bare)} of {total} pictures in {subset.folder.name} have no "
                f"caption ({some(bare)}); give {SAY}, or data.trigger='' for empty captions"
            )
        if subset.regularization:
            return
        trigger = "trigger" if words == self.config.trigger_words else "words"
        instead = f"the {trigger} {words!r}" if words else "an empty one"
        self.warnings.append(
            f"{len(bare)} of {total} pictures in {subset.folder.name} have no caption and get "
            f"{instead} ({some(bare)})"
        )

    def _look_for_trigger(self, pictures: list[Picture]) -> None:
        if not self.config.trigger_words:
            return
        word = self.config.trigger_words.split()[0].lower()
        folder, regularization = pictures[0].subset.folder, pictures[0].subset.regularization
        have = [word in p.caption.lower().replace(",", " ").split() for p in pictures]
        if regularization and any(have):
            self.warnings.append(
                f"captions of regularisation pictures in {folder.name} have the trigger word "
                f"{word!r}; they show the class, and not the subject"
            )
        elif not regularization and not all(have):
            self.warnings.append(
                f"{have.count(False)} of {len(have)} captions in {folder.name} lack the trigger "
                f"word {word!r} (as {pictures[have.index(False)].path.name}); prompts with it may "
                "not find the subject"
            )


def some(names: list[str]) -> str:
    """The first of the names."""
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
