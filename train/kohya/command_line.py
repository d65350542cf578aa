"""kohya's files on the command line, as the overrides that they amount to."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from train.cli.arguments import SWEPT, quoted, unquoted
from train.config.schema import TrainConfig
from train.config.setting_kinds import TYPED, kinds
from train.files import permissions
from train.kohya.named_paths import PLACES
from train.kohya.translate import Translation, translate
from train.kohya_toml.lenient_toml import existing

KOHYA, DATASET = "kohya", "dataset_config"
# where the command line has one of them, the files' others of the row do not count
RIVALS = (
    {"network.alpha", "network.alpha_ratio"},
    {"network.conv_alpha", "network.alpha_ratio"},
    {"scheduler.warmup_ratio", "scheduler.warmup_steps", "scheduler.warmup_epochs"},
    {"training.epochs", "training.max_steps"},
    {"data.path", "data.dataset_config"},
)
PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.-]*")  # what needs no quotes in Hydra's grammar
WORDS = ("null", "true", "false", "nan", "inf")  # ... but would be no text
# the settings that take any text, which train.cli.arguments quotes for Hydra
TEXTS = {key for key, (kind, _) in kinds(TrainConfig).items() if kind in TYPED}


def expand(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A command line with kohya= and dataset_config= replaced by what they amount to.

    Returns:
        the arguments as they are typed, in which those of the command line win; and what a person
        should know.

    Raises:
        ConfigError: see `translate`.
    """
    files: dict[str, str] = {}
    rest = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if sign and key in (KOHYA, DATASET):
            files[key] = value.strip("\"'")
        else:
            rest.append(argument)
    if not files:
        return arguments, []
    kohya = files.get(KOHYA)
    pairs = [argument.lstrip("+~").partition("=") for argument in rest]
    typed = {key: unquoted(value) for key, sign, value in pairs if sign}
    places = [typed[setting] for setting in PLACES.values() if setting in typed]
    permissions.allow([*(existing(Path(file)) for file in files.values()), *places])
    translation = translate(Path(kohya) if kohya else None, files.get(DATASET), typed)
    given = {key for key, _, _ in pairs}
    return [*overrides(translation, given), *rest], translation.notes


def overrides(translation: Translation, given: set[str]) -> list[str]:
    """The overrides of a translation, as a person types them.

    Args:
        given: settings and groups that the command line has and that are left to it.
    """
    rivals = set[str]().union(*(row for row in RIVALS if row & given))
    lines = []
    for key, value in translation.settings.items():
        name = key.lstrip("+~")
        argument = name.startswith("optimizer.") and name != "optimizer.lr"
        if name in given | rivals or (argument and "optimizer" in given):
            continue
        written = as_typed(value) if name in TEXTS else quote(value)
        lines.append(key if key.startswith("~") else f"{key}={written}")
    return lines


def quote(value: Any) -> str:
    """A value in Hydra's grammar, so that it is read as what it is."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(quote, value))}]"
    return str(value) if _is_plain(value) else quoted(value)


def as_typed(text: str) -> str:
    """A text as a person types it for a setting that takes any text.

    What a file says is never an interpolation, and never a sweep.
    """
    if "${" in text or SWEPT.fullmatch(text):
        return quoted(text)
    ends = {text[:1], text[-1:]}
    if text in WORDS or (len(ends) == 1 and ends <= {"'", '"'}):
        mark = '"' if "'" in text else "'"
        return mark + text.replace(mark, f"\\{mark}") + mark
    return text


def _is_plain(text: str) -> bool:
    """Whether a text needs no quotes in Hydra's grammar."""
    written = PLAIN.fullmatch(text) and not re.fullmatch(r"\.\d+", text)
    return bool(written) and text.lower() not in WORDS
