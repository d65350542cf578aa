"""The files and folders that a kohya config names: none but those that the person named too."""

from __future__ import annotations

from collections.abc import Mapping

from train.config import EMBEDDED, ConfigError
from train.encoding import shortened
from train.kohya.said import Said
from train.paths import expanded
from train.permissions import is_named

BASE, PICTURES, DATASET = "pretrained_model_name_or_path", "train_data_dir", "dataset_config"
# kohya's key -> our setting
PLACES = {
    BASE: "base.path",
    PICTURES: "data.path",
    DATASET: "data.dataset_config",
    "reg_data_dir": "data.regularization_path",
    "output_dir": "output",
}


def take_typed(said: Said, typed: Mapping[str, str]) -> None:
    """Puts the places of the command line in the place of the file's, before any is looked at.

    Args:
        typed: settings of the command line, setting -> text.
    """
    for key, setting in PLACES.items():
        if setting in typed:
            said.values[key] = None if typed[setting] == "null" else typed[setting]
    if PLACES[PICTURES] in typed and PLACES[DATASET] not in typed:
        said.values.pop(DATASET, None)


def check_places(said: Said, typed: Mapping[str, str]) -> None:
    """Refuses a place that only the file names.

    Args:
        typed: see `take_typed`.

    Raises:
        ConfigError: it lies elsewhere than what the command line names, or is a model of the hub;
            the message says what to type.
    """
    for key, setting in PLACES.items():
        if setting in typed or (key == PICTURES and said.get(DATASET)):
            continue
        place = said.text(key)
        if place and (key, place) != (BASE, EMBEDDED):
            _check(key, setting, place)


def _check(key: str, setting: str, place: str) -> None:
    shown = shortened(place)
    if key == BASE and not expanded(place).is_absolute() and not _exists(place):
        raise ConfigError(
            f"kohya: {key}: {shown} is no file or folder here, and which model of a hub is loaded "
            f"is not for a file to say: type {setting}={shown}"
        )
    if not is_named(expanded(place)):
        raise ConfigError(
            f"kohya: {key}: {shown} is outside of the folders that the command line names: type "
            f"{setting}={shown} or --allow-path={shown}"
        )


def _exists(place: str) -> bool:
    try:
        return expanded(place).exists()
    except (OSError, ValueError):
        return False
