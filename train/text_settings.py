"""Settings whose value is any text: a path, a pattern, a caption.

A command line hands them over as they are typed (train/arguments.py), so the fields of a schema
say which settings these are.
"""

from __future__ import annotations

import re
from dataclasses import field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Text = TypeVar("Text", str, "str | None")
TEXT, PATH, MAPPING = "text", "path", "mapping"
KIND = "kind"  # in a field's metadata
INTERPOLATION = re.compile(r"(\\*)\$\{")


def text_field(default: Text) -> Text:
    """A field of a schema that may hold any text."""
    return field(default=default, metadata={KIND: TEXT})  # type: ignore[no-any-return]


def path_field(default: Text) -> Text:
    """A field of a schema that names files: a leading `~` is the home folder."""
    return field(default=default, metadata={KIND: PATH})  # type: ignore[no-any-return]


def kinds(schema: type, prefix: str = "") -> dict[str, tuple[str, bool]]:
    """The settings of a schema.

    Returns:
        dotted key -> TEXT, PATH, MAPPING (whose keys are free) or, of any other type, an empty
        string; and whether the setting may be null.
    """
    found: dict[str, tuple[str, bool]] = {}
    hints = get_type_hints(schema)
    for one in fields(schema):
        hint = hints[one.name]
        if is_dataclass(hint) and isinstance(hint, type):
            found |= kinds(hint, f"{prefix}{one.name}.")
        else:
            optional = type(None) in get_args(hint)
            other = MAPPING if get_origin(hint) is dict else ""
            found[f"{prefix}{one.name}"] = one.metadata.get(KIND, other), optional
    return found


def literal(value: Any) -> Any:
    """A value, containers included, in which OmegaConf finds no interpolation.

    It resolves `${...}` wherever a text has it. `\\${` is a literal `${`, and backslashes before
    that count twice.
    """
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    if isinstance(value, str) and "${" in value:
        return INTERPOLATION.sub(lambda found: found[1] * 2 + r"\${", value)
    return value
