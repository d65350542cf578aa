"""Replaces kohya's files on the command line by the overrides that they translate to."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from train.cli.arguments import CHOICE_SWEEP, quoted, unquoted
from train.config.schema import TrainConfig
from train.config.setting_kinds import TEXT_KINDS, kinds
from train.files import permissions
from train.kohya.named_paths import LOCATION_KEYS
from train.kohya.translate import Translation, translate
from train.kohya_toml.lenient_toml import existing_file

KOHYA, DATASET = "kohya", "dataset_config"
# if the command line has one setting of a row, the files' others in that row are ignored
EXCLUSIVE_SETTINGS = (
    {"network.alpha", "network.alpha_ratio"},
    {"network.conv_alpha", "network.alpha_ratio"},
    {"scheduler.warmup_ratio", "scheduler.warmup_steps", "scheduler.warmup_epochs"},
    {"training.epochs", "training.max_steps"},
    {"data.path", "data.dataset_config"},
)
UNQUOTED = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.-]*")  # needs no quotes in Hydra's grammar
RESERVED_WORDS = (
    "null",
    "true",
    "false",
    "nan",
    "inf",
)  # ... except these, which would not be text
# the settings with arbitrary text, which train.cli.arguments quotes for Hydra
TEXT_SETTINGS = {key for key, (kind, _) in kinds(TrainConfig).items() if kind in TEXT_KINDS}


def expand(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A command line with kohya= and dataset_config= replaced by their overrides.

    Returns:
        the arguments as typed, with precedence for those of the command line; and notes.

    Raises:
        ConfigError: see `translate`.
    """
    files: dict[str, str] = {}
    rest = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if separator and key in (KOHYA, DATASET):
            files[key] = value.strip("\"'")
        else:
            rest.append(argument)
    if not files:
        return arguments, []
    kohya = files.get(KOHYA)
    pairs = [argument.lstrip("+~").partition("=") for argument in rest]
    typed = {key: unquoted(value) for key, separator, value in pairs if separator}
    places = [typed[setting] for setting in LOCATION_KEYS.values() if setting in typed]
    permissions.allow([*(existing_file(Path(file)) for file in files.values()), *places])
    translation = translate(Path(kohya) if kohya else None, files.get(DATASET), typed)
    given = {key for key, _, _ in pairs}
    return [*overrides(translation, given), *rest], translation.notes


def overrides(translation: Translation, given: set[str]) -> list[str]:
    """The overrides of a translation, as typed.

    Args:
        given: settings and groups of the command line, which has precedence.
    """
    excluded = set[str]().union(*(row for row in EXCLUSIVE_SETTINGS if row & given))
    lines = []
    for key, value in translation.settings.items():
        name = key.lstrip("+~")
        argument = name.startswith("optimizer.") and name != "optimizer.lr"
        if name in given | excluded or (argument and "optimizer" in given):
            continue
        text = quote_text(value) if name in TEXT_SETTINGS else quote_value(value)
        lines.append(key if key.startswith("~") else f"{key}={text}")
    return lines


def quote_value(value: Any) -> str:
    """A value in Hydra's grammar, preserving its type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(quote_value, value))}]"
    return str(value) if _needs_no_quotes(value) else quoted(value)


def quote_text(text: str) -> str:
    """A text as typed for a setting with arbitrary text.

    A file's text is never an interpolation and never a sweep.
    """
    if "${" in text or CHOICE_SWEEP.fullmatch(text):
        return quoted(text)
    ends = {text[:1], text[-1:]}
    if text in RESERVED_WORDS or (len(ends) == 1 and ends <= {"'", '"'}):
        mark = '"' if "'" in text else "'"
        return mark + text.replace(mark, f"\\{mark}") + mark
    return text


def _needs_no_quotes(text: str) -> bool:
    """Whether a text needs no quotes in Hydra's grammar."""
    matches = UNQUOTED.fullmatch(text) and not re.fullmatch(r"\.\d+", text)
    return bool(matches) and text.lower() not in RESERVED_WORDS
