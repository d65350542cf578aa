"""The range of a numeric setting, declared with its default and looked up for the check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, cast, get_type_hints

NAMES = "names"  # key of a dictionary's metadata: its valid entries
RANGE = "range"  # key of a field's metadata; for a dictionary or a list, of its values
MAX_CHARACTERS = 60  # characters of a value in a message


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; the ends are included unless they are open.

    NaN lies in no range, and infinity only in one that includes it.
    """

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        if not is_number(value):
            return False
        assert isinstance(value, int | float)
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low, high = format_number(self.low), format_number(self.high)
        if self.open_low:
            return f"above {low} and {'below' if self.open_high else 'at most'} {high}"
        return f"from {low} to {'below ' if self.open_high else ''}{high}"


SHARE = Range(0, 1, open_high=True)
UNIT_INTERVAL = Range(0, 1)
SEED = Range(0, 2**32)


def ranged(default: Any, low: float, high: float) -> Any:
    """A field of a dataclass whose value lies from `low` to `high`."""
    return limited(default, Range(low, high))


def limited(default: Any, within: Range) -> Any:
    """A field of a dataclass whose value lies within a range."""
    return field(default=default, metadata={RANGE: within})


def range_of(schema: Any, key: str) -> Range | None:
    """The range of a dotted key of a dataclass, at any depth; None if it declares none."""
    name, _, rest = key.partition(".")
    for one in fields(schema):
        if one.name == name and RANGE in one.metadata:
            return cast(Range, one.metadata[RANGE])
        if one.name == name and rest and is_dataclass(kind := get_type_hints(schema)[name]):
            return range_of(kind, rest)
    return None


def is_number(value: object) -> bool:
    """Whether a value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def format_number(number: float) -> str:
    """A number in plain notation: 10000000 rather than 1e+07, 1e-06 rather than 0.000001."""
    whole = number == number // 1 and abs(number) < 1e12
    return str(int(number)) if whole else f"{number:g}"


def format_value(value: object) -> str:
    """A value in a message, as it is typed, truncated if long."""
    words = {"None": "null", "True": "true", "False": "false"}
    text = repr(value)
    return shortened(words.get(text, text), MAX_CHARACTERS)


def shortened(text: str, max_length: int) -> str:
    """A text of about `most` characters; a longer one loses its middle."""
    return (
        text
        if len(text) <= max_length
        else f"{text[: max_length - max_length // 4]}...{text[-max_length // 4 :]}"
    )


def range_errors(config: Any, prefix: str = "") -> Iterator[str]:
    """Messages about values out of range in a dataclass and in nested ones."""
    for one in fields(config):
        key, value = f"{prefix}{one.name}", getattr(config, one.name)
        if is_dataclass(value):
            yield from range_errors(value, f"{key}.")
        if (bounds := one.metadata.get(RANGE)) is None or value is None:
            continue
        if isinstance(value, list):
            numbers = [("", number) for number in value]
        else:
            numbers = [*value.items()] if isinstance(value, Mapping) else [("", value)]
        for name, number in numbers:
            if number not in bounds:
                yield f"{key}{name and f'.{name}'}: {format_value(number)} must be {bounds}"
