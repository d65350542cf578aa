"""kohya's files on the command line, as the Hydra overrides that they amount to."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from train.kohya.translation import Translation, translate

KOHYA, DATASET = "kohya", "dataset_config"
# where the command line has one of them, the files' others of the row do not count
RIVALS = (
    {"network.alpha", "network.alpha_ratio"},
    {"network.conv_alpha", "network.alpha_ratio"},
    {"scheduler.warmup", "scheduler.warmup_steps", "scheduler.warmup_epochs"},
    {"training.epochs", "training.max_steps"},
    {"data.path", "data.dataset_config"},
)
PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.-]*")  # what needs no quotes in Hydra's grammar
WORDS = ("null", "true", "false", "nan", "inf")  # ... but would be no text


def expand(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A command line with kohya= and dataset_config= replaced by what they amount to.

    Returns:
        the arguments, in which those of the command line win; and what a person should know.

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
    translation = translate(Path(kohya) if kohya else None, files.get(DATASET))
    given = {argument.split("=")[0].lstrip("+~") for argument in rest}
    return [*overrides(translation, given), *rest], translation.notes


def overrides(translation: Translation, given: set[str]) -> list[str]:
    """The Hydra overrides of a translation.

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
        lines.append(key if key.startswith("~") else f"{key}={quote(value)}")
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
    if PLAIN.fullmatch(value) and value.lower() not in WORDS and not re.fullmatch(r"\.\d+", value):
        return str(value)
    # a backslash counts as itself, but for those before a quote
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", value)
    return "'" + re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped) + "'"
