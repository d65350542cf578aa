"""A parsed kohya config: flat, each value with the type of its key."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from train.config.parsing import suggestion
from train.errors import ConfigError
from train.files.untrusted import Tree
from train.kohya_toml.key_tables import (
    ALIASES,
    EMPTY_VALUES,
    EXCLUSIVE_KEYS,
    IGNORED,
    OTHER_SCRIPTS,
    REFUSED,
    UNSUPPORTED,
    changes_nothing,
    refuse,
)
from train.kohya_toml.repairs import replace_typography

MAX_NUMBER = 10**15  # of a number; beyond it floats are not exact integers
MAX_CHARACTERS = 60  # characters of a value in a message
MAX_KEYS = 1000  # kohya has some hundreds
MAX_NAMED_KEYS = 5  # wrong keys in a message
MAX_ARGUMENTS, MAX_ARGUMENT_CHARACTERS = 100, 200  # in number; characters of one


class KohyaConfig:
    """The values of a kohya config.

    Attributes:
        notes: remarks about the config, in words.
        used: the keys that were read.
        defaults: kohya's defaults for keys that the config lacks, key -> value.

    Raises:
        ConfigError: it is not a training config.
    """

    def __init__(self, content: Tree) -> None:
        if "datasets" in content or ("general" in content and len(content) == 1):
            raise ConfigError("kohya: this is a dataset config; give it as dataset_config=")
        self.notes: list[str] = []
        self.used: set[str] = set()
        self.defaults: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        sections = [
            value.items() if isinstance(value, dict) else [(section, value)]
            for section, value in content.items()
        ]
        if (count := sum(map(len, sections))) > MAX_KEYS:
            raise ConfigError(f"kohya: {count} keys are too many; kohya has some hundreds")
        for pairs in sections:  # kohya ignores the sections of a file
            for written, value in pairs:
                key = replace_typography(written).strip().lstrip("-").replace("-", "_").lower()
                if key != written:
                    written_key, name = format_value(written)[1:-1], format_value(key)[1:-1]
                    self.notes.append(f"{written_key}: read as {name}, which kohya would not do")
                if key in self.values and self.values[key] != value:
                    name, used_value = format_value(key)[1:-1], format_value(value)
                    self.notes.append(
                        f"{name} is given twice; the last value, {used_value}, is used"
                    )
                self.values[key] = value
        for alias, key in ALIASES.items():
            if alias in self.values:
                self._rename(alias, key)

    def _rename(self, alias: str, key: str) -> None:
        value = self.values.pop(alias)
        same = (key, *EXCLUSIVE_KEYS.get(key, ()))
        if given := [name for name in same if self.values.get(name) not in EMPTY_VALUES]:
            self.notes.append(f"{alias} is ignored in favor of {given[0]}")
            return
        self.values[key] = value
        unknown = f"{alias}: kohya has no such key and silently ignores it; read as {key}"
        self.notes.append(unknown if alias != "caption_extention" else f"{alias}: read as {key}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is; `default` if it is absent or empty."""
        self.used.add(key)
        value = self.values.get(key)
        if value in EMPTY_VALUES or (isinstance(value, str) and value.lower() == "none"):
            if default is not None:
                self.defaults[key] = default
            return default
        return value

    def text(self, key: str, default: str | None = None) -> Any:
        """A text; numbers and booleans as Python writes them.

        Raises:
            ConfigError: it is a list, a table, or too large a number.
        """
        value = self.get(key, default)
        if isinstance(value, list | dict):
            raise ConfigError(f"kohya: {key} must be text, not {format_value(value)}")
        if isinstance(value, int) and abs(value) > MAX_NUMBER:  # Python limits the digits it prints
            raise ConfigError(f"kohya: {key}: {format_value(value)} is too large a number")
        return value if value is None else str(value)

    def flag(self, key: str) -> bool:
        """Whether a switch is on."""
        value = self.get(key)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if not isinstance(value, bool) and value not in (0, 1, None):
            raise ConfigError(f"kohya: {key} must be true or false, not {format_value(value)}")
        return bool(value)

    def number(self, key: str, default: float | None = None) -> Any:
        """A number; an integer stays one."""
        value = self.get(key, default)
        return value if value is None else number(key, value)

    def whole(self, key: str, default: int | None = None) -> Any:
        value = self.number(key, default)
        return value if value is None else whole(key, value)

    def numbers(self, key: str) -> list[int | float]:
        """One number or several: 512, "512,768", [512, 768]; empty if absent."""
        value = self.get(key, None)
        if value is None:
            return []
        values = value if isinstance(value, list) else re.findall(r"[^\s,;x×()[\]]+", str(value))
        return [number(key, each) for each in values]

    def arguments(self, key: str) -> dict[str, str]:
        """A list of "name=value", like network_args and optimizer_args; or one string of them."""
        value, arguments = self.get(key) or [], {}
        pairs = value.split() if isinstance(value, str) else value
        pairs = pairs if isinstance(pairs, list) else [pairs]
        if len(pairs) > MAX_ARGUMENTS:
            raise ConfigError(f"kohya: {key}: {len(pairs)} arguments are too many")
        for pair in pairs:
            name, sign, text = pair.partition("=") if isinstance(pair, str) else ("", "", "")
            if not (sign and name.strip().isidentifier()):
                raise ConfigError(
                    f'kohya: {key} is a list of "name=value", not {format_value(pair)}'
                )
            if len(pair) > MAX_ARGUMENT_CHARACTERS:
                raise ConfigError(f"kohya: {key}: {format_value(pair)} is too long")
            arguments[name.strip()] = text.strip().strip("\"'")
        return arguments

    def unused_keys(self) -> tuple[list[str], list[str]]:
        """The keys that were not read: those without effect here, and those not supported.

        Raises:
            ConfigError: one of them changes what is trained, or is not a key of kohya's.
        """
        unused = [key for key in self.values if key not in self.used]
        known = IGNORED | UNSUPPORTED | REFUSED.keys() | OTHER_SCRIPTS
        if wrong := [key for key in unused if key not in known]:
            valid = sorted(self.used | IGNORED | UNSUPPORTED | REFUSED.keys() | ALIASES.keys())
            first = wrong[:MAX_NAMED_KEYS]
            named = ", ".join(f"{format_value(key)[1:-1]}{suggestion(key, valid)}" for key in first)
            named += (
                f" and {len(wrong) - MAX_NAMED_KEYS} more" if len(wrong) > MAX_NAMED_KEYS else ""
            )
            raise ConfigError(f"kohya has no such key, and would silently ignore it: {named}")
        effective = [key for key in unused if not changes_nothing(key, self.values[key])]
        for key in effective:
            if key in REFUSED:
                raise ConfigError(f"kohya: {refuse(key)}")
            if key in OTHER_SCRIPTS:
                raise ConfigError(
                    f"kohya: {key} is of its scripts for other models or whole models; here LoRAs "
                    "of Stable Diffusion 1.x, 2.x and SDXL are trained"
                )
        unsupported = [key for key in effective if key in UNSUPPORTED]
        return [key for key in unused if key not in unsupported], unsupported


def format_value(value: Any) -> str:
    """A value in a message, as Python writes it, truncated if long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of too many digits
        text = "a huge number"
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def number(key: str, value: Any) -> int | float:
    """A number, given as a number, a string or a percentage.

    Raises:
        ConfigError: it is not a number, or too large.
    """
    if isinstance(value, bool | list | dict):
        raise ConfigError(f"kohya: {key} must be a number, not {format_value(value)}")
    parsed = value
    if not isinstance(value, int | float):
        text = replace_typography(str(value)).strip()
        try:
            if text.endswith("%"):
                parsed = float(text[:-1]) / 100
            else:
                parsed = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        except ValueError:
            raise ConfigError(f"kohya: {key} must be a number, not {format_value(value)}") from None
    if math.inf > abs(parsed) > MAX_NUMBER:
        raise ConfigError(f"kohya: {key}: {format_value(value)} is too large a number")
    return parsed


def whole(key: str, value: Any) -> int:
    """An integer, given as a number or a string.

    Raises:
        ConfigError: it is not an integer.
    """
    parsed = number(key, value)
    if isinstance(parsed, float) and not parsed.is_integer():  # includes inf and nan
        raise ConfigError(f"kohya: {key} must be a whole number, not {format_value(value)}")
    return int(parsed)


def argument(key: str, value: str) -> Any:
    """An argument's value as kohya parses it: a Python literal; several with commas.

    Raises:
        ConfigError: it is not a number, a word, true, false, none or a list of these.
    """
    try:
        parsed = ast.literal_eval(replace_typography(value).strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        words = {"true": True, "false": False, "none": None}
        return words.get(value.lower(), value)
    several = isinstance(parsed, tuple | list)
    for each in parsed if several else [parsed]:
        if each is not None and not isinstance(each, bool | int | float | str):
            raise ConfigError(f"kohya: {key}: {format_value(value)} is not allowed")
        if isinstance(each, int | float):
            number(key, float(each) if isinstance(each, bool) else each)
    return list(parsed) if several else parsed
