"""What a kohya config says, flat, each value in the kind that its key has."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from train.config.parsing import suggestion
from train.errors import ConfigError
from train.files.untrusted import Tree
from train.kohya_toml.key_tables import (
    ELSEWHERE,
    IGNORED,
    MEANT,
    NOTHING,
    REFUSED,
    RIVALS,
    UNSUPPORTED,
    changes_nothing,
    refuse,
)
from train.kohya_toml.repairs import plain

LARGEST = 10**15  # of a number; floats hold larger ones no longer one by one
LONGEST = 60  # characters of a value in a message
MOST_KEYS = 1000  # kohya has some hundreds
MOST_NAMED = 5  # wrong keys in a message
MOST_ARGUMENTS, LONGEST_ARGUMENT = 100, 200  # in number; characters of one


class KohyaConfig:
    """The values of a kohya config.

    Attributes:
        notes: what was odd about them, in words.
        read: the keys that were asked for.
        silent: what kohya does where the config is silent, key -> value.

    Raises:
        ConfigError: it is not a training config.
    """

    def __init__(self, content: Tree) -> None:
        if "datasets" in content or ("general" in content and len(content) == 1):
            raise ConfigError("kohya: this is a dataset config; give it as dataset_config=")
        self.notes: list[str] = []
        self.read: set[str] = set()
        self.silent: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        sections = [
            value.items() if isinstance(value, dict) else [(section, value)]
            for section, value in content.items()
        ]
        if (count := sum(map(len, sections))) > MOST_KEYS:
            raise ConfigError(f"kohya: {count} keys are too many; kohya has some hundreds")
        for pairs in sections:  # kohya reads a file as if it had none
            for written, own in pairs:
                key = plain(written).strip().lstrip("-").replace("-", "_").lower()
                if key != written:
                    was, name = shown(written)[1:-1], shown(key)[1:-1]
                    self.notes.append(f"{was}: read as {name}, which kohya would not do")
                if key in self.values and self.values[key] != own:
                    name, counts = shown(key)[1:-1], shown(own)
                    self.notes.append(f"{name} is there twice; the last one, {counts}, counts")
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
        if value in NOTHING or (isinstance(value, str) and value.lower() == "none"):
            if default is not None:
                self.silent[key] = default
            return default
        return value

    def text(self, key: str, default: str | None = None) -> Any:
        """A text; a number or a truth as Python writes it.

        Raises:
            ConfigError: it is a list, a table, or too large a number.
        """
        value = self.get(key, default)
        if isinstance(value, list | dict):
            raise ConfigError(f"kohya: {key} is a text, not {shown(value)}")
        if isinstance(value, int) and abs(value) > LARGEST:  # Python writes no number of any length
            raise ConfigError(f"kohya: {key}: {shown(value)} is too large a number")
        return value if value is None else str(value)

    def flag(self, key: str) -> bool:
        """Whether it is switched on."""
        value = self.get(key)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if not isinstance(value, bool) and value not in (0, 1, None):
            raise ConfigError(f"kohya: {key} is true or false, not {shown(value)}")
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
        values = value if isinstance(value, list) else re.findall(r"[^\s,;x×()[\]]+", str(value))
        return [number(key, each) for each in values]

    def arguments(self, key: str) -> dict[str, str]:
        """A list of "name=value", as network_args and optimizer_args are; or one string of them."""
        value, found = self.get(key) or [], {}
        pairs = value.split() if isinstance(value, str) else value
        pairs = pairs if isinstance(pairs, list) else [pairs]
        if len(pairs) > MOST_ARGUMENTS:
            raise ConfigError(f"kohya: {key}: {len(pairs)} arguments are too many")
        for pair in pairs:
            name, sign, own = pair.partition("=") if isinstance(pair, str) else ("", "", "")
            if not (sign and name.strip().isidentifier()):
                raise ConfigError(f'kohya: {key} is a list of "name=value", not {shown(pair)}')
            if len(pair) > LONGEST_ARGUMENT:
                raise ConfigError(f"kohya: {key}: {shown(pair)} is too long")
            found[name.strip()] = own.strip().strip("\"'")
        return found

    def rest(self) -> tuple[list[str], list[str]]:
        """The keys that nobody asked for: those without effect here, and those not supported.

        Raises:
            ConfigError: one of them changes what is trained, or is no key of kohya's.
        """
        left = [key for key in self.values if key not in self.read]
        known = IGNORED | UNSUPPORTED | REFUSED.keys() | ELSEWHERE
        if wrong := [key for key in left if key not in known]:
            valid = sorted(self.read | IGNORED | UNSUPPORTED | REFUSED.keys() | MEANT.keys())
            first = wrong[:MOST_NAMED]
            named = ", ".join(f"{shown(key)[1:-1]}{suggestion(key, valid)}" for key in first)
            named += f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
            raise ConfigError(f"kohya has no such key, and would train without a word: {named}")
        said = [key for key in left if not changes_nothing(key, self.values[key])]
        for key in said:
            if key in REFUSED:
                raise ConfigError(f"kohya: {refuse(key)}")
            if key in ELSEWHERE:
                raise ConfigError(
                    f"kohya: {key} is of its scripts for other models or whole models; here LoRAs "
                    "of Stable Diffusion 1.x, 2.x and SDXL are trained"
                )
        unsupported = [key for key in said if key in UNSUPPORTED]
        return [key for key in left if key not in unsupported], unsupported


def shown(value: Any) -> str:
    """A value in a message, as Python writes it; shortened where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of too many digits
        text = "a huge number"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def number(key: str, value: Any) -> int | float:
    """A number, as a number or as a string; of per cent, their hundredth.

    Raises:
        ConfigError: it is none, or one that is too large.
    """
    if isinstance(value, bool | list | dict):
        raise ConfigError(f"kohya: {key} is a number, not {shown(value)}")
    read = value
    if not isinstance(value, int | float):
        written = plain(str(value)).strip()
        try:
            if written.endswith("%"):
                read = float(written[:-1]) / 100
            else:
                read = int(written) if re.fullmatch(r"[+-]?\d+", written) else float(written)
        except ValueError:
            raise ConfigError(f"kohya: {key} is a number, not {shown(value)}") from None
    if math.inf > abs(read) > LARGEST:
        raise ConfigError(f"kohya: {key}: {shown(value)} is too large a number")
    return read


def whole(key: str, value: Any) -> int:
    """A whole number, as a number or as a string.

    Raises:
        ConfigError: it is none.
    """
    read = number(key, value)
    if isinstance(read, float) and not read.is_integer():  # inf and nan are none either
        raise ConfigError(f"kohya: {key} is a whole number, not {shown(value)}")
    return int(read)


def argument(key: str, value: str) -> Any:
    """An argument's value as kohya reads it: as Python, several with commas.

    Raises:
        ConfigError: it is none of a number, a word, true, false, none and a list of these.
    """
    try:
        read = ast.literal_eval(plain(value).strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        words = {"true": True, "false": False, "none": None}
        return words.get(value.lower(), value)
    several = isinstance(read, tuple | list)
    for each in read if several else [read]:
        if each is not None and not isinstance(each, bool | int | float | str):
            raise ConfigError(f"kohya: {key}: {shown(value)} cannot be")
        if isinstance(each, int | float):
            number(key, float(each) if isinstance(each, bool) else each)
    return list(read) if several else read
