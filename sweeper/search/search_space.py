"""The search space: converts Hydra's sweeps to Optuna distributions, and values to overrides."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweeper.search.conditional_params import CONDITIONS, PARENT_KEYS, is_active, parent_of
from train.cli.sweep_ranges import range_values, sweep_words
from train.config.ranges import is_number
from train.errors import ConfigError

Params = dict[str, Any]
# groups that cannot be searched: all trials of a study share them, so that checkpoints compare
FIXED_GROUPS = (
    "base",
    "data",
    "probes",
    "scores",
    "selection",
    "final",
    "study",
    "search",
    "pruner",
    "preset",
    "hydra",
)
SEARCHABLE_ANYWAY = ("data.repeats",)
SIZE_KEYS = ("network.rank", "network.conv_rank", "network.text_encoder", "training.epochs")


@dataclass(frozen=True)
class Dimension:
    """One searched setting.

    Attributes:
        key: a dotted setting (network.rank) or a group of conf/ (optimizer).
        literals: for a choice, each of its values in Hydra's syntax.
    """

    key: str
    distribution: BaseDistribution
    literals: tuple[str, ...] = ()

    def override(self, value: Any) -> str:
        """The Hydra override that sets this value."""
        if isinstance(self.distribution, CategoricalDistribution):
            for choice, literal in zip(self.distribution.choices, self.literals, strict=True):
                if type(choice) is type(value) and choice == value:
                    return f"{self.key}={literal}"
        return f"{self.key}={value}"

    def endpoints(self) -> list[Any]:
        """Every value of a choice; the lowest and the highest value of a range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return [self.distribution.low, self.distribution.high]

    def values(self) -> list[Any] | None:
        """All values in order; None if the range is continuous."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return list(distribution.choices)
        if isinstance(distribution, IntDistribution):
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        assert isinstance(distribution, FloatDistribution)
        if distribution.step is None:
            return None
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        return [
            min(distribution.high, round(distribution.low + i * distribution.step, 12))
            for i in range(count)
        ]

    def contains(self, value: Any) -> bool:
        """Whether the search could propose this value. Booleans do not count as numbers."""
        values = self.values()
        if values is not None:
            return any(_is_same(value, other) for other in values)
        low, high = self.endpoints()
        return is_number(value) and low <= value <= high

    def admits(self, value: Any) -> bool:
        """Like `contains`, for a value that Optuna computed: its last digit may be off."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution) or not is_number(value):
            return self.contains(value)
        return distribution._contains(value)

    def extended_to(self, value: Any) -> Dimension:
        """A dimension that also contains this value; unchanged if the value is None."""
        if value is None or self.contains(value):
            return self
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            wider: BaseDistribution = CategoricalDistribution([*distribution.choices, value])
            return replace(self, distribution=wider, literals=(*self.literals, str(value)))
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        if distribution.step not in (None, 1):
            return self
        wider = type(distribution)(
            min(distribution.low, value), max(distribution.high, value), log=distribution.log
        )
        return replace(self, distribution=wider)


@dataclass(frozen=True)
class Space:
    """All searched settings. Conditional settings come after the setting they depend on."""

    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        keys = dict.fromkeys(dimension.key for dimension in self.dimensions)
        ordered = sorted(self.dimensions, key=lambda d: parent_of(d.key, keys) is not None)
        object.__setattr__(self, "dimensions", tuple(ordered))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {dimension.key: dimension.distribution for dimension in self.dimensions}

    def overrides(self, params: Params) -> list[str]:
        """Hydra overrides for one trial."""
        return [d.override(params[d.key]) for d in self.dimensions if d.key in params]

    def active_params(self, params: Params) -> Params:
        """Those settings that have an effect, given the others."""
        return {key: value for key, value in params.items() if is_active(key, params)}

    def combinations(self) -> Iterator[Params] | None:
        """Every possible trial in order; None if a range is continuous."""
        values = [dimension.values() for dimension in self.dimensions]
        if any(choices is None for choices in values):
            return None
        return self._combinations([choices or [] for choices in values])

    def _combinations(self, values: list[list[Any]]) -> Iterator[Params]:
        names, yielded = [dimension.key for dimension in self.dimensions], set()
        for combination in itertools.product(*values):
            params = self.active_params(dict(zip(names, combination, strict=True)))
            if (key := identity(params)) not in yielded:
                yielded.add(key)
                yield params

    def size(self) -> int | None:
        """Number of combinations; None if a range is continuous."""
        combinations = self.combinations()
        if combinations is None:
            return None
        if any(dimension.key in CONDITIONS for dimension in self.dimensions):
            return sum(1 for _ in combinations)
        return math.prod(len(dimension.values() or []) for dimension in self.dimensions)

    def activating_overrides(self, dimension: Dimension) -> list[str]:
        """Overrides of other settings with which this one has an effect.

        Raises:
            ConfigError: it never has an effect.
        """
        dimensions = {other.key: other for other in self.dimensions}
        parent = parent_of(dimension.key, dimensions)
        if parent is None:
            return []
        for value in dimensions[parent].endpoints():
            if is_active(dimension.key, {parent: value}):
                return [dimensions[parent].override(value)]
        raise ConfigError(f"{dimension.key}: has no effect with any of the values of {parent}")

    def largest_overrides(self) -> list[str]:
        """Overrides with which a trial needs the most disk space."""
        return [d.override(max(d.endpoints())) for d in self.dimensions if d.key in SIZE_KEYS]

    def covers(self, setting: str) -> bool:
        """Whether the search sets this dotted setting, itself or through its group."""
        return any(
            setting == dimension.key or setting.startswith(f"{dimension.key}.")
            for dimension in self.dimensions
        )

    def describe(self) -> dict[str, str]:
        return {dimension.key: _describe(dimension.distribution) for dimension in self.dimensions}


def _is_same(value: Any, other: Any) -> bool:
    """Whether two plain values are equal. True does not equal 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def identity(params: Params) -> str:
    """A canonical string: equal settings have equal strings."""
    return json.dumps(params, sort_keys=True)


def parse_space(
    arguments: list[str],
    search: dict[str, str],
    parser: OverridesParser,
    configured: Callable[[str], Any] = lambda key: None,
) -> tuple[Space, list[str]]:
    """The search space and the fixed overrides of a command line.

    If `arguments` contain sweeps, they are the whole space. Otherwise the space is `search`,
    without the settings that are fixed or have no effect. Each dimension is extended to the
    configured value, because a search must be able to compare itself with the preset, which is
    often outside the search.

    Args:
        configured: returns a setting's value, or a group's choice, as composed; None if it has
            none.

    Raises:
        ConfigError: a setting cannot be searched, or a range is invalid.
    """
    overrides = parser.parse_overrides(arguments)
    sweeps = [override for override in overrides if override.is_sweep_override()]
    fixed = [override for override in overrides if not override.is_sweep_override()]
    dimensions = [_dimension(override, parser) for override in sweeps]
    if not sweeps:
        fixed_values = {override.key_or_group: override.value() for override in fixed}
        parents = {key: configured(key) for key in PARENT_KEYS if key not in search}
        parents = {key: value for key, value in parents.items() if value is not None}
        parent_values = parents | fixed_values
        dimensions = [
            _dimension(_parse(f"{key}={sweep}", parser), parser).extended_to(configured(key))
            for key, sweep in search.items()
            if key not in fixed_values and is_active(key, parent_values)
        ]
    return Space(tuple(dimensions)), [override.input_line or "" for override in fixed]


def _parse(line: str, parser: OverridesParser) -> Override:
    try:
        override = parser.parse_overrides([line])[0]
    except HydraException as error:
        raise ConfigError(f"search: {line} is not valid in Hydra's grammar: {error}") from None
    if not override.is_sweep_override():
        raise ConfigError(f"search: {line} is a single value; put it in its own group")
    return override


def _dimension(override: Override, parser: OverridesParser) -> Dimension:
    key = override.get_key_element()
    root = override.key_or_group.split(".")[0].split("/")[0]
    if root in FIXED_GROUPS and key not in SEARCHABLE_ANYWAY:
        raise ConfigError(
            f"{key}: must be the same in all trials of a study; run a study for each value"
        )
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return Dimension(key, _interval(key, sweep))
    if isinstance(sweep, RangeSweep):
        return Dimension(key, _range(key, sweep))
    literals = tuple(sweep_words(override, parser))
    if getattr(sweep, "shuffle", False):
        # sorted, so that the study's space stays the same; the sampler decides about the order
        literals = tuple(sorted(literals))
    values = [parser.parse_overrides([f"{key}={literal}"])[0].value() for literal in literals]
    choices = [
        value if value is None or isinstance(value, bool | int | float | str) else literal
        for value, literal in zip(values, literals, strict=True)
    ]
    return Dimension(key, CategoricalDistribution(choices), literals)


def _interval(key: str, sweep: IntervalSweep) -> BaseDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low is None or high is None or low >= high:
        raise ConfigError(f"{key}: interval({low}, {high}) must start at its lower end")
    if log and low <= 0:
        raise ConfigError(f"{key}: tag(log, ...) needs numbers above 0, not {low}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(key: str, sweep: RangeSweep) -> BaseDistribution:
    first, last, signed_step, _ = range_values(key, sweep)
    low, high, step = min(first, last), max(first, last), abs(signed_step)
    log = "log" in sweep.tags
    if log and (step != 1 or low <= 0):
        raise ConfigError(f"{key}: tag(log, range(...)) needs step 1 and numbers above 0")
    if isinstance(low, int):
        return IntDistribution(int(low), int(high), log=log, step=1 if log else int(step))
    return FloatDistribution(float(low), float(high), step=float(step))


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        choices = ", ".join(map(str, distribution.choices))
        return f"one of {choices}" if len(distribution.choices) > 1 else choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    steps = f" by {distribution.step}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low} to {distribution.high}{steps}{', log' if distribution.log else ''}"
