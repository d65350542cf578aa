"""kohya's dataset_config: a TOML file with several folders and how each is read.

`[general]`, `[[datasets]]` and `[[datasets.subsets]]`; a subset inherits missing keys from its
dataset, then from `[general]`, then from our own settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.cli.arguments import ALLOW_PATH
from train.config.parsing import suggestion
from train.config.schema import DataConfig
from train.data.images.buckets import Framing, framing_of
from train.data.images.image import DataError
from train.data.images.subset import Subset
from train.errors import ConfigError
from train.files.paths import expanded, is_below
from train.files.permissions import is_foreign, may_read
from train.kohya_toml.key_tables import (
    MAX_BUCKET_SIDE,
    MIN_BUCKET_SIDE,
    REFUSED,
    UNSUPPORTED,
    changes_nothing,
    refuse,
)
from train.kohya_toml.lenient_toml import read_toml
from train.kohya_toml.parsed_config import format_value
from train.text.display import name_as_words, shortened
from train.text.shell import in_setting

KEY = "data.dataset_config"
NUMBER_TYPES = (int, float)
# key -> types of its value: of a subset alone, of a subset or its parents, and of a dataset
SUBSET_KEYS: dict[str, tuple[type, ...]] = {
    "image_dir": (str,),
    "is_reg": (bool,),
}
INHERITED_KEYS: dict[str, tuple[type, ...]] = {
    "class_tokens": (str,),
    "num_repeats": (int,),
    "caption_extension": (str,),
    "keep_tokens": (int,),
    "shuffle_caption": (bool,),
    "flip_aug": (bool,),
    "color_aug": (bool,),
    "caption_dropout_rate": NUMBER_TYPES,
}
DATASET_KEYS: dict[str, tuple[type, ...]] = {
    "resolution": (int, list),
    "batch_size": (int,),
    "enable_bucket": (bool,),
    "min_bucket_reso": (int,),
    "max_bucket_reso": (int,),
    "bucket_reso_steps": (int,),
    "bucket_no_upscale": (bool,),
    "validation_split": NUMBER_TYPES,
    "validation_seed": (int,),
}
# further keys that kohya reads
OTHER_KEYS = {
    "alpha_mask", "cache_info", "caption_dropout_every_n_epochs", "caption_prefix",
    "caption_separator", "caption_suffix", "caption_tag_dropout_rate", "conditioning_data_dir",
    "custom_attributes", "enable_wildcard", "face_crop_aug_range", "keep_tokens_separator",
    "metadata_file", "network_multiplier", "random_crop", "resize_interpolation",
    "secondary_separator", "skip_image_resolution", "token_warmup_min", "token_warmup_step",
}  # fmt: skip
# minimum and maximum of numbers
RANGES = {
    "num_repeats": (1, 10_000),
    "keep_tokens": (0, 1000),
    "caption_dropout_rate": (0, 1),
    "validation_seed": (0, 2**32),
    "batch_size": (1, 4096),
    "min_bucket_reso": (1, 8192),
    "max_bucket_reso": (1, 8192),
    "bucket_reso_steps": (1, 1024),
}
MAX_SIDE = 4096  # pixels
MAX_SUBSETS = 1000


@dataclass(frozen=True)
class DatasetConfig:
    """The content of the file.

    Attributes:
        batch_sizes: of its datasets, if given.
        warnings: about the file.
    """

    subsets: list[Subset]
    batch_sizes: tuple[int, ...]
    warnings: list[str]


def read_dataset_config(config: DataConfig, defaults: Subset) -> DatasetConfig:
    """The subsets of `data.dataset_config`.

    Args:
        defaults: for keys that the file lacks.

    Raises:
        DataError: no such file, invalid TOML, an unknown key, a value of the wrong type, or a
            folder that the user has not named.
    """
    file = expanded(str(config.dataset_config))
    try:
        content, repairs = read_toml(file)
    except ConfigError as error:
        raise DataError(f"{KEY}: {error}") from None
    _check_keys(content, {"general", "datasets"}, f"{file.name}")
    reader = _Reader(file, config, defaults)
    general = content.get("general", {})
    reader.check(general, {**INHERITED_KEYS, **DATASET_KEYS}, "general")
    datasets = _tables(content, "datasets", file.name)
    for number, dataset in enumerate(datasets):
        reader.read(dataset, general, f"datasets[{number}]")
    if not reader.subsets:
        raise DataError(f"{KEY}: {file.name} names no images ([[datasets.subsets]], image_dir)")
    warnings = [f"{file.name}: repaired: {', '.join(repairs)}"] if repairs else []
    warnings += [
        f"{key} in {file.name} is not supported, so kohya's LoRA would differ"
        for key in dict.fromkeys(reader.unsupported)
    ]
    if config.validation_path and any(s.validation_fraction for s in reader.subsets):
        warnings.append(
            f"validation_split in {file.name} is ignored: data.validation_path names the "
            "held-out images"
        )
    return DatasetConfig(reader.subsets, tuple(reader.batch_sizes), warnings)


class _Reader:
    def __init__(self, file: Path, config: DataConfig, defaults: Subset) -> None:
        self.file, self.config, self.defaults = file, config, defaults
        self.subsets: list[Subset] = []
        self.batch_sizes: list[int] = []
        self.unsupported: list[str] = []

    def check(self, table: Any, known: Mapping[str, tuple[type, ...]], location: str) -> None:
        """Rejects invalid content of a table, and records what is not supported."""
        where = f"{self.file.name}, {location}"
        if not isinstance(table, dict):
            raise DataError(f"{KEY}: {where}: must be a table")
        _check_keys(table, {*known, *OTHER_KEYS}, where)
        for key, value in table.items():
            if key in known:
                _check_value(key, value, known[key], where)
            elif changes_nothing(key, value):
                continue
            elif key in REFUSED:
                raise DataError(f"{KEY}: {where}: {refuse(key)}")
            elif key in UNSUPPORTED:
                self.unsupported.append(key)

    def read(self, dataset: Any, general: dict[str, Any], location: str) -> None:
        """Reads the subsets of one dataset."""
        self.check(dataset, {**INHERITED_KEYS, **DATASET_KEYS, "subsets": (list,)}, location)
        shared = {**general, **dataset}
        framing = self._framing(shared, location)
        if "batch_size" in shared:
            self.batch_sizes.append(shared["batch_size"])
        for number, subset in enumerate(_tables(dataset, "subsets", self.file.name)):
            where = f"{location}.subsets[{number}]"
            self.check(subset, {**SUBSET_KEYS, **INHERITED_KEYS}, where)
            if len(self.subsets) == MAX_SUBSETS:
                raise DataError(f"{KEY}: {self.file.name}: has more than {MAX_SUBSETS} subsets")
            self.subsets.append(self._subset({**shared, **subset}, framing, where))

    def _subset(self, table: dict[str, Any], framing: Framing, location: str) -> Subset:
        if "image_dir" not in table:
            raise DataError(f"{KEY}: {self.file.name}, {location}: image_dir is missing")
        folder = self._folder(table["image_dir"], f"{location}.image_dir")
        defaults, regularization = self.defaults, table.get("is_reg", False)
        words = defaults.class_words
        if regularization:
            words = class_of(words)
        rate, share = table.get("caption_dropout_rate"), table.get("validation_split")
        return replace(
            defaults, folder=folder, captions=folder, framing=framing,
            regularization=regularization,
            class_words=name_as_words(" ".join(table.get("class_tokens", "").split())) or words,
            extension=_dotted(table.get("caption_extension", defaults.extension)),
            repeats=table.get("num_repeats", 1 if regularization else defaults.repeats),
            keep_tokens=table.get("keep_tokens", defaults.keep_tokens),
            shuffle_caption=table.get("shuffle_caption", defaults.shuffle_caption),
            flip=table.get("flip_aug", defaults.flip),
            color_augmentation=table.get("color_aug", defaults.color_augmentation),
            caption_dropout=None if rate is None else float(rate),
            validation_fraction=None if share is None else float(share),
            validation_seed=table.get("validation_seed"),
        )  # fmt: skip

    def _folder(self, path: str, location: str) -> Path:
        """The folder of an image_dir: below the file's own, or one that the user named."""
        if is_foreign(path):
            raise self._outside(location, path)
        folder = expanded(path)
        # relative to the file too: file and folders may be moved together
        candidates = [folder, self.file.parent / folder]
        allowed = [one for one in candidates if is_below(one, self.file.parent) or may_read(one)]
        existing = next((one for one in allowed if os.path.isdir(one)), None)
        if existing is None and len(allowed) < len(candidates):
            raise self._outside(location, os.path.abspath(candidates[-1]))
        return existing or folder

    def _outside(self, location: str, folder: str) -> DataError:
        return DataError(
            f"{KEY}: {self.file.name}, {location}: {shortened(folder)} is outside of the folders "
            f"that the command line names; add {in_setting(ALLOW_PATH, folder)} to it"
        )

    def _framing(self, table: dict[str, Any], location: str) -> Framing:
        where = f"{KEY}: {self.file.name}, {location}"
        config = self.config
        size = table.get("resolution", [config.resolution, config.height or config.resolution])
        pair = [size, size] if isinstance(size, int) else size
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in pair)
        if len(pair) != 2 or not whole or not all(0 < side <= MAX_SIDE for side in pair):
            raise DataError(
                f"{where}: resolution is one or two whole numbers of pixels, up to {MAX_SIDE}"
            )
        least, most = _kohyas_sides(pair) if table.get("enable_bucket") else (None, None)
        bucketed = replace(
            config, resolution=pair[0], height=pair[1],
            buckets=table.get("enable_bucket", config.buckets),
            min_bucket=table.get("min_bucket_reso", config.min_bucket or least),
            max_bucket=table.get("max_bucket_reso", config.max_bucket or most),
            bucket_step=table.get("bucket_reso_steps", config.bucket_step),
            bucket_upscale=not table.get("bucket_no_upscale", not config.bucket_upscale),
        )  # fmt: skip
        framing = framing_of(bucketed)
        if framing.buckets and framing.least > framing.most:
            raise DataError(f"{where}: min_bucket_reso is more than max_bucket_reso")
        if framing.buckets and framing.step > min(framing.resolution):
            raise DataError(f"{where}: bucket_reso_steps is more than the resolution")
        return framing


def _kohyas_sides(resolution: Sequence[int]) -> tuple[int | None, int | None]:
    """kohya's default sides of buckets; None if kohya would reject them for this resolution."""
    return (
        MIN_BUCKET_SIDE if min(resolution) >= MIN_BUCKET_SIDE else None,
        MAX_BUCKET_SIDE if max(resolution) <= MAX_BUCKET_SIDE else None,
    )


def class_of(words: str) -> str:
    """The class words of a trigger: 'sks person' without its first word."""
    return " ".join(words.split()[1:]) or words


def _tables(parent: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    tables = parent.get(key, [])
    if not isinstance(tables, list):
        raise DataError(
            f"{KEY}: {where}: write [[{key}]] with double brackets, since there may be several"
        )
    return tables


def _check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    all_keys = {**SUBSET_KEYS, **INHERITED_KEYS, **DATASET_KEYS}
    for key in table:
        if key in known:
            continue
        if key in all_keys:
            level = "[[datasets]] or [general]" if key in DATASET_KEYS else "[[datasets.subsets]]"
            raise DataError(f"{KEY}: {where}: {key} belongs to {level}")
        hint = suggestion(key, [*known, *all_keys])
        raise DataError(f"{KEY}: {where}: there is no key {format_value(key)[1:-1]}{hint}")


def _check_value(key: str, value: Any, kinds: tuple[type, ...], where: str) -> None:
    """Rejects a value of the wrong type or out of range."""
    fits: bool = isinstance(value, kinds)
    if not fits or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise DataError(f"{KEY}: {where}.{key}: {format_value(value)} must be {names}")
    if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
        low, high = RANGES[key]
        raise DataError(f"{KEY}: {where}.{key}: {format_value(value)} must be from {low} to {high}")
    if key == "validation_split" and not 0 <= value < 1:
        raise DataError(f"{KEY}: {where}.{key}: {format_value(value)} must be from 0 to below 1")
    if key == "caption_extension" and not re.fullmatch(r"\.?[\w.-]+", value):
        raise DataError(
            f"{KEY}: {where}.{key}: {format_value(value)} is not an extension such as .txt"
        )
    if key == "image_dir" and not value.isprintable():
        raise DataError(f"{KEY}: {where}.{key}: {format_value(value)} is not a folder name")


def _dotted(extension: str) -> str:
    return extension if extension.startswith(".") else f".{extension}"
