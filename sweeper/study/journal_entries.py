"""The lines of Optuna's journal as typed, bounded values.

Optuna replays a journal without checking it. These types describe what Optuna itself writes, within
bounds; other fields of a line are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import TrialState

from train.config.ranges import format_value
from train.config.schema import MAX_STEPS
from train.files.untrusted import Scalar, parse_json

MAX_NUMBER = 1e30  # fits into a 32-bit float, as Optuna requires
Name = Annotated[str, Meta(min_length=1, max_length=500)]
Id = Annotated[int, Meta(ge=0, le=10_000_000)]
Step = Annotated[int, Meta(ge=0, le=MAX_STEPS)]
ExactInt = Annotated[int, Meta(ge=-(2**53), le=2**53)]  # exact as a float
State = Literal[0, 1, 2, 3, 4]  # of Optuna's TrialState
Value = Scalar | list[Scalar] | dict[str, Scalar | list[Scalar]]  # of an attribute
Attributes = dict[Name, Value]
Attribute = Annotated[dict[Name, Value], Meta(min_length=1, max_length=1)]
# only years that every system can convert to its local time zone
Timestamp = Annotated[str, Meta(pattern=r"^(19[789]\d|2\d\d\d)-\d\d-\d\dT[0-9:.]{8,15}\+00:00$")]
PICKLE_PREFIXES = ("cma:", "sepcma:", "cmawm:")  # attributes in which Optuna's CMA-ES pickles
MAX_DRAWS = 1_000_000
RUNNING, COMPLETE = TrialState.RUNNING.value, TrialState.COMPLETE.value


class FloatRange(msgspec.Struct):
    """A range of numbers."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if not all(map(is_number, (self.low, self.high, self.step or 0.0))):
            raise ValueError("its ends must be numbers")


class IntRange(msgspec.Struct):
    """A range of integers."""

    low: ExactInt
    high: ExactInt
    log: bool = False
    step: ExactInt = 1


class Choices(msgspec.Struct):
    """Values to choose from."""

    choices: Annotated[list[Scalar], Meta(min_length=1, max_length=10_000)]


class FloatDistribution(msgspec.Struct, tag_field="name"):
    """Optuna's JSON format of a distribution, as are the next two."""

    attributes: FloatRange


class IntDistribution(msgspec.Struct, tag_field="name"):
    attributes: IntRange


class CategoricalDistribution(msgspec.Struct, tag_field="name"):
    attributes: Choices


Distribution = FloatDistribution | IntDistribution | CategoricalDistribution


class JournalEntry(msgspec.Struct, tag_field="op_code"):
    """A line of the journal; `op_code` determines its class."""

    worker_id: Name


class NewStudy(JournalEntry, tag=0):
    study_name: Name
    directions: Annotated[list[Literal[1, 2]], Meta(min_length=1, max_length=10)]


class DeletedStudy(JournalEntry, tag=1):
    study_id: Id


class StudyUserAttribute(JournalEntry, tag=2):
    study_id: Id
    user_attr: Attribute


class StudySystemAttribute(JournalEntry, tag=3):
    study_id: Id
    system_attr: Attribute

    def __post_init__(self) -> None:
        check_system_attributes(self.system_attr)


class NewTrial(JournalEntry, tag=4):
    """A trial: running, waiting, or with values from elsewhere."""

    study_id: Id
    datetime_start: Timestamp | None
    datetime_complete: Timestamp | UnsetType = UNSET
    state: State = 0  # running
    value: float | None = None
    values: list[float] | None = None
    distributions: dict[Name, str] = {}
    params: dict[Name, float] = {}
    user_attrs: Attributes = {}
    system_attrs: Attributes = {}
    intermediate_values: dict[Name, float] = {}

    def __post_init__(self) -> None:
        if self.value is not None and self.values is not None:
            raise ValueError("has a value and values")
        values = self.values if self.value is None else [self.value]
        check_values(self.state, values)
        _check_timestamps(self.datetime_start, self.datetime_complete)
        for name, internal in self.params.items():
            _check_param(name, internal, self.distributions.get(name, ""))
        for step in self.intermediate_values:
            if not (step.isascii() and step.isdecimal() and int(step[:9]) <= MAX_STEPS):
                raise ValueError(f"{format_value(step)} is not a step")
        self.system_attrs = {n: v for n, v in self.system_attrs.items() if not is_pickled(n)}
        check_system_attributes(self.system_attrs)


class TrialParam(JournalEntry, tag=5):
    trial_id: Id
    param_name: Name
    param_value_internal: float
    distribution: str

    def __post_init__(self) -> None:
        _check_param(self.param_name, self.param_value_internal, self.distribution)


class TrialEnd(JournalEntry, tag=6):
    """A trial's new state and values; a waiting trial also starts with such a line."""

    trial_id: Id
    state: State
    values: list[float] | None
    datetime_start: Timestamp | UnsetType = UNSET
    datetime_complete: Timestamp | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_values(self.state, self.values)
        _check_timestamps(self.datetime_start, self.datetime_complete)
        if self.state == RUNNING and self.datetime_start is UNSET:
            raise ValueError("starts without a datetime_start")
        if TrialState(self.state).is_finished() and self.datetime_complete is UNSET:
            raise ValueError("ends without a datetime_complete")


class TrialReport(JournalEntry, tag=7):
    trial_id: Id
    step: Step
    intermediate_value: float


class TrialUserAttribute(JournalEntry, tag=8):
    trial_id: Id
    user_attr: Attribute


class TrialSystemAttribute(JournalEntry, tag=9):
    trial_id: Id
    system_attr: Attribute

    def __post_init__(self) -> None:
        if not self.pickled:
            check_system_attributes(self.system_attr)

    @property
    def pickled(self) -> bool:
        """Whether it is an attribute that Optuna's CMA-ES would unpickle."""
        return any(map(is_pickled, self.system_attr))


class Skipped(JournalEntry, tag=10):
    """A line that Optuna counts but otherwise ignores."""


Line = (
    NewStudy
    | DeletedStudy
    | StudyUserAttribute
    | StudySystemAttribute
    | NewTrial
    | TrialParam
    | TrialEnd
    | TrialReport
    | TrialUserAttribute
    | TrialSystemAttribute
    | Skipped
)


def is_pickled(name: str) -> bool:
    """Whether Optuna's CMA-ES stores a pickle in a system attribute of this name."""
    return name.startswith(PICKLE_PREFIXES) and not name.endswith(":generation")


def check_system_attributes(attributes: Mapping[str, Any]) -> None:
    """Checks the system attributes that Optuna relies on.

    Raises:
        ValueError: naming the first one that would crash or stall Optuna.
    """
    for name, value in attributes.items():
        if name == "fixed_params":
            valid = isinstance(value, Mapping) and all(map(_is_scalar, value.values()))
        elif name == "constraints":
            valid = isinstance(value, list) and all(map(is_number, value))
        elif name.startswith("constraints:"):
            valid = is_number(value)
        elif name.startswith("qmc:"):  # Optuna skips this many samples
            valid = type(value) is int and 0 <= value <= MAX_DRAWS
        else:
            continue
        if not valid:
            raise ValueError(f"its {format_value(name)} is {format_value(value)}")


def check_values(state: int, values: Sequence[Any] | None) -> None:
    """Checks the objective values of a trial.

    Raises:
        ValueError: a value is not a finite number, or a complete trial has none.
    """
    if values is None and state == COMPLETE:
        raise ValueError("it is complete without a value")
    for value in values or ():
        if not is_number(value):
            raise ValueError(f"its value is {format_value(value)}")


def is_number(value: Any) -> bool:
    """Whether a value is a number within MAX_NUMBER: no NaN, no infinity, no bool."""
    return type(value) in (int, float) and -MAX_NUMBER <= value <= MAX_NUMBER


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | str) or is_number(value)


def _check_timestamps(*moments: str | UnsetType | None) -> None:
    for moment in moments:
        if isinstance(moment, str):
            datetime.fromisoformat(moment)


def _check_param(name: str, internal: float, distribution: str) -> None:
    parsed = distribution_of(distribution)
    if not (math.isfinite(internal) and parsed._contains(internal)):
        raise ValueError(f"{format_value(name)}: {internal} is outside its distribution")


@lru_cache(maxsize=1000)
def distribution_of(text: str) -> BaseDistribution:
    """Parses a distribution from the journal.

    Raises:
        ValueError: it is invalid.
    """
    kind: Any = Distribution
    parse_json(text, kind, "distribution")
    return json_to_distribution(text)
