"""Checks the files and folders in a kohya config: only those that the user named too."""

from __future__ import annotations

from collections.abc import Mapping

from train.cli.arguments import ALLOW_PATH
from train.config.schema import EMBEDDED
from train.errors import ConfigError
from train.files.paths import expanded
from train.files.permissions import is_foreign, may_read, may_write
from train.kohya_toml.parsed_config import KohyaConfig
from train.text.display import shortened
from train.text.shell import in_setting

BASE, TRAIN_DATA_DIR, DATASET = "pretrained_model_name_or_path", "train_data_dir", "dataset_config"
OUTPUT = "output_dir"
# kohya's key -> our setting
LOCATION_KEYS = {
    BASE: "base.path",
    TRAIN_DATA_DIR: "data.path",
    DATASET: "data.dataset_config",
    "reg_data_dir": "data.regularization_path",
    OUTPUT: "output",
}


def override_locations(config: KohyaConfig, typed: Mapping[str, str]) -> None:
    """Replaces the file's locations by those of the command line, before any is checked.

    Args:
        typed: settings of the command line, setting -> text.
    """
    for key, setting in LOCATION_KEYS.items():
        if setting in typed:
            config.values[key] = None if typed[setting] == "null" else typed[setting]
    if LOCATION_KEYS[TRAIN_DATA_DIR] in typed and LOCATION_KEYS[DATASET] not in typed:
        config.values.pop(DATASET, None)


def check_locations(config: KohyaConfig, typed: Mapping[str, str]) -> None:
    """Rejects a location that only the file names.

    Args:
        typed: see `override_locations`.

    Raises:
        ConfigError: it lies outside of what the command line names, or is a model of the hub; the
            message says what to type.
    """
    for key, setting in LOCATION_KEYS.items():
        if setting in typed or (key == TRAIN_DATA_DIR and config.get(DATASET)):
            continue
        path = config.text(key)
        if path and (key, path) != (BASE, EMBEDDED):
            _check(key, setting, path)


def _check(key: str, setting: str, path: str) -> None:
    short_path, given = shortened(path), in_setting(setting, path)
    absolute = is_foreign(path) or expanded(path).is_absolute()
    if key == BASE and not absolute and not _exists(path):
        raise ConfigError(
            f"kohya: {key}: {short_path} is not a file or folder here, and a file may not choose a "
            f"model of a hub: type {given}"
        )
    if is_foreign(path) or not may_read(expanded(path)):
        raise ConfigError(
            f"kohya: {key}: {short_path} is outside of the folders that the command line names: "
            f"type {given} or {in_setting(ALLOW_PATH, path)}"
        )
    if key == OUTPUT and not may_write(expanded(path)):
        raise ConfigError(
            f"kohya: {key}: {short_path} is a folder of this program or of studies, and a file may "
            f"not choose it for output: give another one, such as {in_setting(setting, 'lora')}"
        )


def _exists(path: str) -> bool:
    try:
        return expanded(path).exists()
    except (OSError, ValueError):
        return False
