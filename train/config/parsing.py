"""Converts settings to typed values; rejects unknown keys, wrong types and values out of range."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

import train.config.resolvers  # noqa: F401  # registers them
from train.config.ranges import (
    format_value,
    range_errors,
    range_of,
)
from train.config.setting_kinds import (
    escape_interpolations,
    is_numeric,
)
from train.errors import ConfigError

BOOLEANS = {"true", "false", "yes", "no", "on", "off", "y", "n", "1", "0"}  # OmegaConf's words
MISSING_INTERPOLATION = re.compile(r"Interpolation key '([^']*)' not found")
MAX_INT_BITS = 1000  # bits; a float cannot hold an integer of more than 1024
Schema = TypeVar("Schema")


def parse_config(schema: type[Schema], config: DictConfig) -> Schema:
    """The config as an instance of `schema`; every key, type and range is checked.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a value of the wrong type, or one
            outside of the range that its field declares.
    """
    try:
        values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        for complaint in _type_errors(values, schema):
            raise ConfigError(complaint)
        merged = OmegaConf.merge(
            _structured(cast(type, schema)), OmegaConf.create(escape_interpolations(values))
        )
        settings = cast(Schema, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = error.full_key or str(error.key)
        if missing := MISSING_INTERPOLATION.search(str(error)):
            raise ConfigError(
                f"{missing[1]}: there is no such setting; it was removed or is not defined, and "
                f"{key} takes its value from it"
            ) from None
        unknown = isinstance(error, ConfigKeyError)
        hint = suggestion(key, dotted_keys(_structured(cast(type, schema)))) if unknown else ""
        message = "there is no such setting" if unknown else cause(error)
        if isinstance(error, ValidationError) and (bounds := range_of(schema, key)):
            number = "whole number" if "Integer" in message else "number"
            message = f"{format_value(OmegaConf.select(config, key))} must be a {number} {bounds}"
        raise ConfigError(f"{key}: {message}{hint}") from None
    for complaint in range_errors(settings):
        raise ConfigError(complaint)
    return settings


@cache
def _structured(schema: type) -> DictConfig:
    """The types of a schema in OmegaConf's form; merging does not change it."""
    return cast(DictConfig, OmegaConf.structured(schema))


def _type_errors(values: dict[str, Any], schema: object, prefix: str = "") -> Iterator[str]:
    """Values that OmegaConf would convert to another value, or fail on without a clear message."""
    kinds = get_type_hints(schema) if is_dataclass(schema) else {}
    for name, value in values.items():
        key, kind = f"{prefix}{name}", kinds.get(name)
        if isinstance(value, dict):
            yield from _type_errors(value, kind, f"{key}.")
        elif is_dataclass(kind):
            inside = f"{key}.{fields(kind)[0].name}"
            yield (
                f"{key}: {format_value(value)} is not allowed; it is a group of settings, such as "
                f"{inside}"
            )
        elif get_origin(kind) is dict and value is not None:
            yield (
                f"{key}: {format_value(value)} is not allowed; it is a list of names and values, "
                "as {a: 1}"
            )
        elif get_origin(kind) is list and is_numeric(get_args(kind)[0]):
            if not _is_list_of_numbers(value, *get_args(kind)):
                whole = "whole " if get_args(kind) == (int,) else ""
                yield f"{key}: {format_value(value)} must be a list of {whole}numbers, as [1, 2]"
        elif get_origin(kind) is list and not _is_list_of_mappings(value):
            yield (
                f"{key}: {format_value(value)} must be a list of settings, as [{{network.rank: 4}}]"
            )
        elif kind is bool and str(value).lower() not in BOOLEANS:
            yield f"{key}: {format_value(value)} must be true or false"
        elif isinstance(value, str) and "${" in value and is_numeric(kind):
            yield f"{key}: {format_value(value)} must be a number"
        elif kind is not str and _is_huge(value):
            yield f"{key}: {format_value(value)} is too large a number"


def _is_list_of_numbers(value: Any, kind: type) -> bool:
    allowed = (int,) if kind is int else (int, float)
    return isinstance(value, list) and all(
        type(item) in allowed and not _is_huge(item) for item in value
    )


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > MAX_INT_BITS


def _is_list_of_mappings(value: Any) -> bool:
    items = [] if value is None else value
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def dotted_keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of all settings and groups in a config."""
    names: list[str] = []
    for name, value in cast(dict[str, Any], OmegaConf.to_container(config)).items():
        names.append(f"{prefix}{name}")
        if isinstance(value, dict):
            names += dotted_keys(OmegaConf.create(value), f"{prefix}{name}.")
    return names


def suggestion(key: str, known: list[str]) -> str:
    """`; did you mean X?` for the known key nearest to `key`, or an empty text."""
    similar = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {similar[0]}?" if similar and similar[0] != key else ""


def cause(error: BaseException) -> str:
    """An exception in one line: its first line, or its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
