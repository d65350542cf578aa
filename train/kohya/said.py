"""What a kohya config says, flat, each value in the kind that its key has."""

from __future__ import annotations

import ast
import re
from typing import Any

from train.config import ConfigError
from train.kohya.keys import HARMLESS, IGNORED, MEANT, RIVALS, UNSUPPORTED
from train.kohya.reading import PLAIN

NOTHING: tuple[Any, ...] = (None, "", [], {})


class Said:
    """The values of a kohya config.

    Attributes:
        notes: what was odd about them, in words.
        read: the keys that were asked for.
        silent: what kohya does where the config is silent, key -> value.

    Raises:
        ConfigError: it is not a training config.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        if "datasets" in content or ("general" in content and len(content) == 1):
            raise ConfigError("kohya: this is a dataset config; give it as dataset_config=")
        self.notes: list[str] = []
        self.read: set[str] = set()
        self.silent: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        for section, value in content.items():
            pairs = value.items() if isinstance(value, dict) else [(section, value)]
            for key, own in pairs:  # kohya reads a file as if it had no sections
                if key in self.values and self.values[key] != own:
                    self.notes.append(f"{key} is there twice; the last one, {own}, counts")
                self.values[key] = own
        for key, meant in MEANT.items():
            if key in self.values:
                self._take(key, meant)

    def _take(self, key: str, meant: str) -> None:
        value = self.values.pop(key)
        known = (meant, *RIVALS.get(meant, ()))
        if beside := [own for own in known if self.values.get(own) not in NOTHING]:
            self.notes.append(f"{key} is left out beside {beside[0]}")
            return
        self.values[meant] = value
        unknown = f"{key}: kohya has no such key and takes it silently; read as {meant}"
        self.notes.append(unknown if key != "caption_extention" else f"{key}: read as {meant}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is; `default` where there is none or an empty one."""
        self.read.add(key)
        value = self.values.get(key)
        if value in NOTHING or value == "None":
            if default is not None:
                self.silent[key] = default
            return default
        return value

    def text(self, key: str, default: str | None = None) -> Any:
        value = self.get(key, default)
        return value if value is None else str(value)

    def flag(self, key: str) -> bool:
        """Whether it is switched on."""
        value = self.get(key)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if not isinstance(value, bool) and value not in (0, 1, None):
            raise ConfigError(f"kohya: {key} is true or false, not {value!r}")
        return bool(value)

    def number(self, key: str, default: float | None = None) -> Any:
        """A number: whole, where it is written so."""
        value = self.get(key, default)
        return value if value is None else number(key, value)

    def whole(self, key: str, default: int | None = None) -> Any:
        value = self.number(key, default)
        return value if value is None else whole(key, value)

    def numbers(self, key: str) -> list[int | float]:
        """One number or several: 512, "512,768", [512, 768]; none where it is silent."""
        value = self.get(key, None)
        if value is None:
            return []
        values = value if isinstance(value, list) else str(value).replace(",", " ").split()
        return [number(key, each) for each in values]

    def arguments(self, key: str) -> dict[str, str]:
        """A list of "name=value", as network_args and optimizer_args are; or one string of them."""
        value, found = self.get(key) or [], {}
        for pair in value.split() if isinstance(value, str) else value:
            name, sign, own = str(pair).partition("=")
            if not sign:
                raise ConfigError(f'kohya: {key} is a list of "name=value", not {pair!r}')
            found[name.strip()] = own.strip().strip("\"'")
        return found

    def rest(self) -> tuple[list[str], list[str], list[str]]:
        """The keys that nobody asked for: without effect here, not supported, and no key at all."""
        left = [key for key in self.values if key not in self.read]
        off = [
            key
            for key in left
            if key in UNSUPPORTED
            and (self.values[key] in (*NOTHING, False, 0) or self.values[key] == HARMLESS.get(key))
        ]
        return (
            [key for key in left if key in IGNORED or key in off],
            [key for key in left if key in UNSUPPORTED and key not in off],
            [key for key in left if key not in IGNORED | UNSUPPORTED],
        )


def number(key: str, value: Any) -> int | float:
    """A number, as a number or as a string.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool):
        raise ConfigError(f"kohya: {key} is a number, not {value!r}")
    if isinstance(value, int | float):
        return value
    written = str(value).translate(PLAIN).strip()
    try:
        return int(written) if re.fullmatch(r"[+-]?\d+", written) else float(written)
    except ValueError:
        raise ConfigError(f"kohya: {key} is a number, not {value!r}") from None


def whole(key: str, value: Any) -> int:
    """A whole number, as a number or as a string.

    Raises:
        ConfigError: it is none.
    """
    read = number(key, value)
    if isinstance(read, float) and not read.is_integer():  # inf and nan are none either
        raise ConfigError(f"kohya: {key} is a whole number, not {value!r}")
    return int(read)


def argument(value: str) -> Any:
    """An argument's value as kohya reads it: as Python, several with commas."""
    try:
        read = ast.literal_eval(value.translate(PLAIN).strip())
    except (ValueError, SyntaxError):
        words = {"true": True, "false": False, "none": None}
        return words.get(value.lower(), value)
    return list(read) if isinstance(read, tuple) else read
