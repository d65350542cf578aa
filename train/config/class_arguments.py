"""Checks the arguments of classes that a config names by `_target_`, without importing them."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from train.config.parsing import cause, suggestion
from train.config.ranges import Range, format_value, is_number
from train.errors import ConfigError
from train.text.display import shortened

TARGET = "_target_"


@dataclass(frozen=True)
class Argument:
    """The values that a class accepts for an argument.

    Attributes:
        within: the range of a number, or of each of `count` numbers; None: no numbers.
        whole: only integers.
        other_values: further values, such as true and false, a word, or null.
        required: the class has no default for it.
        nested: settings of another class, which are checked by the same table.
    """

    within: Range | None = None
    whole: bool = False
    count: int = 1
    other_values: tuple[Any, ...] = ()
    required: bool = False
    nested: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether the class accepts a value here."""
        if any(type(value) is type(other) and value == other for other in self.other_values):
            return True
        if self.within is None:
            return False
        if self.count == 1:
            return self._holds(value)
        listed = isinstance(value, list | tuple) and len(value) == self.count
        return listed and all(self._holds(number) for number in value)

    def _holds(self, value: Any) -> bool:
        assert self.within is not None
        return value in self.within and (isinstance(value, int) or not self.whole)

    def __str__(self) -> str:
        """The accepted values, in words."""
        alternatives = [format_value(value) for value in self.other_values]
        if self.nested:
            alternatives.insert(0, "the settings of a class")
        if self.within is None:
            return " or ".join(alternatives)
        kind = "whole number" if self.whole else "number"
        numbers = f"a {kind}" if self.count == 1 else f"{self.count} {kind}s"
        return " or ".join([f"{numbers} {self.within}", *alternatives])


ArgumentTable = Mapping[
    str, Mapping[str, Argument]
]  # dotted path of a class -> its arguments by name


def number(low: float, high: float, **about: Any) -> Argument:
    """A number from `low` to `high`."""
    return Argument(Range(low, high), **about)


def whole(low: int, high: int, **about: Any) -> Argument:
    """An integer from `low` to `high`."""
    return Argument(Range(low, high), whole=True, **about)


def choice(*values: Any) -> Argument:
    """One of these values."""
    return Argument(other_values=values)


def optional(argument: Argument) -> Argument:
    """The same argument, or null."""
    return replace(argument, other_values=(*argument.other_values, None))


FLAG = choice(True, False)


def check_arguments(
    part: str, settings: Mapping[str, Any], table: ArgumentTable, example: str
) -> None:
    """Rejects settings that the class which they name does not accept.

    A class that is not in the table is not imported; its arguments are only checked for NaN.

    Args:
        part: the dotted key of the settings, such as "optimizer".
        example: a class that can stand here, for the message if none is named.

    Raises:
        ConfigError: naming the first wrong setting, with the nearest valid one.
    """
    target = settings.get(TARGET)
    if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        given = f" {format_value(target)}" if target is not None else ""
        raise ConfigError(f"{part}.{TARGET}:{given} must name a class, such as {example}")
    arguments = {str(key): value for key, value in settings.items() if key != TARGET}
    for key in _nan_keys(part, arguments):
        raise ConfigError(f"{shortened(key)}: nan is not a number")
    if (known := table.get(target)) is None:
        return
    name = target.rpartition(".")[2]
    for key, value in arguments.items():
        if key not in known:
            hint = suggestion(key, list(known)) or f"; it takes {', '.join(known) or 'nothing'}"
            raise ConfigError(f"{part}.{shortened(key)}: {name} has no such argument{hint}")
        if known[key].nested and isinstance(value, Mapping):
            check_arguments(f"{part}.{key}", value, table, example)
        elif not known[key].accepts(value):
            raise ConfigError(f"{part}.{key}: {format_value(value)} must be {known[key]}")
    for key, argument in known.items():
        if argument.required and key not in arguments:
            raise ConfigError(f"{part}.{key}: {name} needs it: {argument}")


def find_class(part: str, target: str, kind: type) -> type:
    """Imports the class of a dotted path.

    Raises:
        ConfigError: there is no such class, or it is not of this kind.
    """
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module can raise anything when it is imported
        raise ConfigError(
            f"{part}.{TARGET}: there is no class {target!r} ({cause(error)})"
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise ConfigError(f"{part}.{TARGET}: {target} is not a subclass of {kind.__name__}")
    return cls


def nested_targets(prefix: str, value: Any) -> Iterator[str]:
    """The keys of all class names, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == TARGET:
                yield f"{prefix}.{key}"
            yield from nested_targets(f"{prefix}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from nested_targets(prefix, inner)


def _nan_keys(prefix: str, value: Any) -> Iterator[str]:
    """The keys of all NaN values, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nan_keys(f"{prefix}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _nan_keys(prefix, inner)
    elif is_number(value) and math.isnan(value):
        yield prefix
