"""The kind of value of each setting of a schema.

The kind decides how a command line passes the value on (train/cli/arguments.py), and whether a
file or a store from elsewhere may set it (sweeper/reproduction/received_settings.py). A field that
could hold text must declare its kind, so a new setting cannot be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, field, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Text = TypeVar("Text", str, "str | None")
KIND, LOCAL = "kind", "local"  # in a field's metadata
NUMBERS = (bool, int, float)
INTERPOLATION = re.compile(r"(\\*)\$\{")


class Kind(Enum):
    """The kind of a setting's value, and therefore what it could do."""

    NUMBER = "number"  # a number or true/false: bounded by its range
    NUMBERS = "numbers"  # a number, a word for it such as auto, or a list of numbers
    MAPPING = "mapping"  # names, each with a number
    CHOICE = "choice"  # one of a few words
    TEXT = "text"  # any text; nothing is opened, imported or asked because of it
    PATH = "path"  # files to read or to write
    MODEL = "model"  # a model to load: files, or an id on a hub
    ADDRESS = "address"  # of a database or a server
    CLASS = "class"  # a class to import (`_target_`) and its arguments
    SETTINGS = "settings"  # values of other settings


TEXT_KINDS = (Kind.TEXT, Kind.PATH, Kind.MODEL, Kind.ADDRESS)  # may hold any characters
PATH_KINDS = (Kind.PATH, Kind.MODEL)  # `~` is the home folder
FREE_KINDS = (Kind.MAPPING, Kind.CLASS, Kind.SETTINGS)  # mappings whose keys no schema knows
# the metadata of fields that are not plain text
OF_NUMBERS, OF_CLASS = {KIND: Kind.NUMBERS}, {KIND: Kind.CLASS}
OF_SETTINGS = {KIND: Kind.SETTINGS}
Kinds = Mapping[str, tuple[Kind, bool]]  # dotted key -> kind, and whether it may be null


def text_field(default: Text) -> Text:
    """A field of a schema that may hold any text."""
    return field(default=default, metadata={KIND: Kind.TEXT})


def path_field(default: Text, local: bool = False) -> Text:
    """A field of a schema that names files: a leading `~` is the home folder.

    Args:
        local: it concerns this machine and not the result, so it is never read from a file or a
            store.
    """
    return field(default=default, metadata={KIND: Kind.PATH, LOCAL: local})


def model_field(default: Text) -> Text:
    """A field of a schema that names a model: files, or an id on a hub."""
    return field(default=default, metadata={KIND: Kind.MODEL})


def address_field(default: Text) -> Text:
    """A field of a schema that names a database or a server."""
    return field(default=default, metadata={KIND: Kind.ADDRESS})


def choice_field(default: Text, local: bool = False) -> Text:
    """A field of a schema that holds one of a few words; its check knows them.

    Args:
        local: see `path_field`.
    """
    return field(default=default, metadata={KIND: Kind.CHOICE, LOCAL: local})


def kinds(schema: type, prefix: str = "") -> dict[str, tuple[Kind, bool]]:
    """The settings of a schema.

    Returns:
        dotted key -> its kind, and whether the setting may be null.

    Raises:
        TypeError: a field could hold text and declares no kind.
    """
    settings: dict[str, tuple[Kind, bool]] = {}
    hints = get_type_hints(schema)
    for one in fields(schema):
        hint = hints[one.name]
        if is_dataclass(hint) and isinstance(hint, type):
            settings |= kinds(hint, f"{prefix}{one.name}.")
        else:
            settings[f"{prefix}{one.name}"] = kind_of(one, hint), type(None) in get_args(hint)
    return settings


def kind_of(one: Field[Any], hint: Any) -> Kind:
    """The kind of a field.

    Raises:
        TypeError: it could hold text and declares no kind.
    """
    if (declared := one.metadata.get(KIND)) is not None:
        return Kind(declared)
    if get_origin(hint) is dict and is_numeric(get_args(hint)[1]):
        return Kind.MAPPING
    if is_numeric(hint):
        return Kind.NUMBER
    raise TypeError(f"{one.name}: a field of type {hint} must declare its kind (setting_kinds.py)")


def is_numeric(hint: Any) -> bool:
    """Whether a type holds only numbers and booleans, or null."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return all(option in (*NUMBERS, type(None)) for option in options)


def escape_interpolations(value: Any) -> Any:
    """A value, including nested ones, in which OmegaConf finds no interpolation.

    OmegaConf resolves `${...}` anywhere in a text. `\\${` is a literal `${`, and backslashes before
    that count twice.
    """
    if isinstance(value, dict):
        return {key: escape_interpolations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(item) for item in value]
    if isinstance(value, str) and "${" in value:
        return INTERPOLATION.sub(lambda match: match[1] * 2 + r"\${", value)
    return value
