"""kohya's dataset_config: a TOML file that names several folders and how each is read.

`[general]`, `[[datasets]]` and `[[datasets.subsets]]`; what a subset does not say its dataset says,
or `[general]`, or our own settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.config import ConfigError, DataConfig, suggestion
from train.data.buckets import Framing, framing_of
from train.data.picture import DataError
from train.data.subset import Subset
from train.kohya.reading import read_toml

KEY = "data.dataset_config"
NUMBER = (int, float)
# key -> the types of its values; a subset's own, those that it can inherit, and a dataset's
OWN: dict[str, tuple[type, ...]] = {
    "image_dir": (str,),
    "class_tokens": (str,),
    "is_reg": (bool,),
}
INHERITED: dict[str, tuple[type, ...]] = {
    "num_repeats": (int,),
    "caption_extension": (str,),
    "keep_tokens": (int,),
    "shuffle_caption": (bool,),
    "flip_aug": (bool,),
    "color_aug": (bool,),
    "caption_dropout_rate": NUMBER,
}
DATASET: dict[str, tuple[type, ...]] = {
    "resolution": (int, list),
    "batch_size": (int,),
    "enable_bucket": (bool,),
    "min_bucket_reso": (int,),
    "max_bucket_reso": (int,),
    "bucket_reso_steps": (int,),
    "bucket_no_upscale": (bool,),
}
SIDES = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")
LEAST, MOST = 256, 1024  # what the first two are with kohya, where nothing is said
# what kohya reads there and we do not: said, and otherwise passed over
UNSUPPORTED = (
    "alpha_mask", "cache_info", "caption_dropout_every_n_epochs", "caption_prefix",
    "caption_separator", "caption_suffix", "caption_tag_dropout_rate", "conditioning_data_dir",
    "custom_attributes", "enable_wildcard", "face_crop_aug_range", "keep_tokens_separator",
    "metadata_file", "network_multiplier", "random_crop", "resize_interpolation",
    "secondary_separator", "skip_image_resolution", "token_warmup_min", "token_warmup_step",
    "validation_seed", "validation_split",
)  # fmt: skip


@dataclass(frozen=True)
class DatasetConfig:
    """What the file comes to.

    Attributes:
        batch_sizes: of its datasets, where they say one.
        warnings: keys that are kohya's and are passed over.
    """

    subsets: list[Subset]
    batch_sizes: tuple[int, ...]
    warnings: list[str]


def read_dataset_config(config: DataConfig, like: Subset) -> DatasetConfig:
    """The subsets of `data.dataset_config`.

    Args:
        like: what a subset gets that the file does not say.

    Raises:
        DataError: no such file, no TOML, a key that there is not, or a value of the wrong type.
    """
    file = Path(os.path.expanduser(str(config.dataset_config)))
    try:
        content, repairs = read_toml(file)
    except ConfigError as error:
        raise DataError(f"{KEY}: {error}") from None
    _check_keys(content, {"general", "datasets"}, (), f"{file.name}")
    reader = _Reader(file, config, like)
    general = content.get("general", {})
    reader.check(general, {**INHERITED, **DATASET}, "general")
    datasets = _tables(content, "datasets", file.name)
    for number, dataset in enumerate(datasets):
        reader.read(dataset, general, f"datasets[{number}]")
    if not reader.subsets:
        raise DataError(f"{KEY}: {file.name} names no pictures ([[datasets.subsets]], image_dir)")
    warnings = [f"{file.name}: repaired: {', '.join(repairs)}"] if repairs else []
    warnings += [
        f"{key} in {file.name} is a setting of kohya's that is not supported; it is passed over"
        for key in dict.fromkeys(reader.passed_over)
    ]
    return DatasetConfig(reader.subsets, tuple(reader.batch_sizes), warnings)


class _Reader:
    def __init__(self, file: Path, config: DataConfig, like: Subset) -> None:
        self.file, self.config, self.like = file, config, like
        self.subsets: list[Subset] = []
        self.batch_sizes: list[int] = []
        self.passed_over: list[str] = []

    def check(self, table: Any, known: Mapping[str, tuple[type, ...]], place: str) -> None:
        """Refuses what cannot stand in a table, and notes what is passed over."""
        where = f"{self.file.name}, {place}"
        if not isinstance(table, dict):
            raise DataError(f"{KEY}: {where}: must be a table")
        _check_keys(table, set(known), UNSUPPORTED, where)
        self.passed_over += [key for key in table if key in UNSUPPORTED]
        for key, kinds in known.items():
            if key in table:
                _check_type(table[key], kinds, f"{where}.{key}")

    def read(self, dataset: Any, general: dict[str, Any], place: str) -> None:
        """The subsets of one dataset."""
        self.check(dataset, {**INHERITED, **DATASET, "subsets": (list,)}, place)
        shared = {**general, **dataset}
        framing = self._framing(shared, place)
        if "batch_size" in shared:
            self.batch_sizes.append(shared["batch_size"])
        for number, subset in enumerate(_tables(dataset, "subsets", self.file.name)):
            where = f"{place}.subsets[{number}]"
            self.check(subset, {**OWN, **INHERITED}, where)
            self.subsets.append(self._subset({**shared, **subset}, framing, where))

    def _subset(self, said: dict[str, Any], framing: Framing, place: str) -> Subset:
        if "image_dir" not in said:
            raise DataError(f"{KEY}: {self.file.name}, {place}: image_dir is missing")
        folder = Path(os.path.expanduser(said["image_dir"]))
        if not os.path.isdir(folder) and os.path.isdir(self.file.parent / folder):
            folder = self.file.parent / folder  # the file and its folders were moved together
        like, regularization = self.like, said.get("is_reg", False)
        words = like.class_words
        if regularization:
            words = class_of(words)
        rate = said.get("caption_dropout_rate")
        made = replace(
            like, folder=folder, captions=folder, framing=framing, regularization=regularization,
            class_words=said.get("class_tokens", "").strip() or words,
            extension=_dotted(said.get("caption_extension", like.extension)),
            repeats=said.get("num_repeats", 1 if regularization else like.repeats),
            keep_tokens=said.get("keep_tokens", like.keep_tokens),
            shuffle_caption=said.get("shuffle_caption", like.shuffle_caption),
            flip=said.get("flip_aug", like.flip),
            color_augmentation=said.get("color_aug", like.color_augmentation),
            caption_dropout=None if rate is None else float(rate),
        )  # fmt: skip
        impossible = {
            "num_repeats": made.repeats < 1,
            "keep_tokens": made.keep_tokens < 0,
            "caption_dropout_rate": not 0 <= (made.caption_dropout or 0) <= 1,
        }
        for key, wrong in impossible.items():
            if wrong:
                raise DataError(f"{KEY}: {self.file.name}, {place}.{key}: {said[key]} cannot be")
        return made

    def _framing(self, said: dict[str, Any], place: str) -> Framing:
        where = f"{KEY}: {self.file.name}, {place}"
        config = self.config
        size = said.get("resolution", [config.resolution, config.height or config.resolution])
        pair = [size, size] if isinstance(size, int) else size
        sides = [*pair, *(said[key] for key in SIDES if key in said)]
        if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise DataError(f"{where}: sizes are whole numbers of pixels, resolution one or two")
        least, most = _kohyas_sides(pair) if said.get("enable_bucket") else (None, None)
        chosen = replace(
            config, resolution=pair[0], height=pair[1],
            buckets=said.get("enable_bucket", config.buckets),
            min_bucket=said.get("min_bucket_reso", config.min_bucket or least),
            max_bucket=said.get("max_bucket_reso", config.max_bucket or most),
            bucket_step=said.get("bucket_reso_steps", config.bucket_step),
            bucket_upscale=not said.get("bucket_no_upscale", not config.bucket_upscale),
        )  # fmt: skip
        framing = framing_of(chosen)
        if framing.buckets and framing.least > framing.most:
            raise DataError(f"{where}: min_bucket_reso is more than max_bucket_reso")
        return framing


def _kohyas_sides(resolution: Sequence[int]) -> tuple[int | None, int | None]:
    """What kohya takes for the sides of buckets; None where it would stop at the resolution."""
    return (
        LEAST if min(resolution) >= LEAST else None,
        MOST if max(resolution) <= MOST else None,
    )


def class_of(words: str) -> str:
    """The class word of a trigger: 'sks person' without its first word."""
    return " ".join(words.split()[1:]) or words


def _tables(parent: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    tables = parent.get(key, [])
    if not isinstance(tables, list):
        raise DataError(
            f"{KEY}: {where}: write [[{key}]] in two brackets, for there may be several"
        )
    return tables


def _check_keys(
    table: Mapping[str, Any], known: set[str], passed_over: Sequence[str], where: str
) -> None:
    everywhere = {**OWN, **INHERITED, **DATASET}
    for key in table:
        if key in known or key in passed_over:
            continue
        if key in everywhere:
            level = "[[datasets]] or [general]" if key in DATASET else "[[datasets.subsets]]"
            raise DataError(f"{KEY}: {where}: {key} belongs to {level}")
        near = suggestion(key, [*known, *everywhere])
        raise DataError(f"{KEY}: {where}: there is no key {key}{near}")


def _check_type(value: Any, kinds: tuple[type, ...], where: str) -> None:
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return
    names = " or ".join(kind.__name__ for kind in kinds)
    raise DataError(f"{KEY}: {where}: {value!r} must be {names}")


def _dotted(extension: str) -> str:
    return extension if extension.startswith(".") else f".{extension}"
