"""The values of Hydra's sweeps: without duplicates, and with exact ranges."""

from __future__ import annotations

import math
from decimal import Decimal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from train.errors import ConfigError

MAX_VALUES = 10_000  # of one sweep that is written out value by value


def range_values(key: str, sweep: RangeSweep) -> tuple[float, float, float, int]:
    """The first and the last value of a range, its step, and the number of values.

    Hydra adds the steps in floating point, so its `range(0.1,0.8,0.1)` includes 0.8; here they are
    the decimal numbers that were typed.

    Raises:
        ConfigError: the range is empty or endless.
    """
    numbers = (sweep.start, sweep.stop, sweep.step)
    words = f"range({', '.join(map(str, numbers))})"
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ConfigError(f"{key}: {words} must be of finite numbers")
    start, stop, step = (Decimal(str(number)) for number in numbers)
    if step == 0:
        raise ConfigError(f"{key}: {words} never reaches its stop, as its step is 0")
    count = math.ceil((stop - start) / step)
    if count <= 0:
        raise ConfigError(f"{key}: {words} is empty")
    kind = int if all(isinstance(number, int) for number in numbers) else float
    return kind(start), kind(start + (count - 1) * step), kind(step), count


def sweep_words(override: Override, parser: OverridesParser) -> list[str]:
    """The values of a sweep over choices or a range, as Hydra writes them.

    Raises:
        ConfigError: no values, or too many of them.
    """
    key, sweep = override.get_key_element(), override.value()
    if isinstance(sweep, RangeSweep):
        first, _, step, count = range_values(key, sweep)
        if count > MAX_VALUES:
            raise ConfigError(f"{key}: {count} values; a sweep takes {MAX_VALUES} or fewer")
        begin, by = Decimal(str(first)), Decimal(str(step))
        kind = type(first)
        return [str(kind(begin + i * by)) for i in range(count)]
    try:
        words = list(dict.fromkeys(override.sweep_string_iterator()))
    except ValueError as error:
        raise ConfigError(f"{key}: {override.input_line} is not valid: {error}") from None
    if not words:
        raise ConfigError(f"{key}: {override.input_line} has no value to choose from")
    values = [parser.parse_overrides([f"{key}={word}"])[0].value() for word in words]
    # 1 and 1.0 are the same value, true and 1 are not
    different = {(isinstance(v, bool), str(v) if isinstance(v, list | dict) else v): word
                 for v, word in reversed(list(zip(values, words, strict=True)))}  # fmt: skip
    return list(reversed(different.values()))
