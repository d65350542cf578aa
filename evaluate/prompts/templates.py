"""Sentences with names in braces: `a photo of {subject}`.

Unlike `str.format` it accepts names only: no attributes, indices or format specifications.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from train.config.parsing import suggestion
from train.text.display import shortened

PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class TemplateError(ValueError):
    """A template cannot be filled in; the message says why."""


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with the names replaced by their values; {{ and }} are braces.

    Raises:
        TemplateError: a name without a value, or a single brace.
    """

    def replacement(piece: re.Match[str]) -> str:
        if piece[0] in ("{{", "}}"):
            return piece[0][0]
        name = piece[1]
        if name is None:
            raise TemplateError(f"has a single {piece[0]}; write it twice for a literal one")
        if name not in values:
            hint = suggestion(name, list(values)) or f"; known are {', '.join(values)}"
            raise TemplateError(f"has {{{shortened(name)}}}, which has no value{hint}")
        return values[name]

    return PIECE.sub(replacement, template)
