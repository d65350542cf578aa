"""How names and counts stand in the lines about a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.encoding import readable

SHOWN = 3  # names in a line


def some(files: Sequence[Path | str]) -> str:
    """The first of the files' names."""
    names = [readable(file if isinstance(file, str) else file.name) for file in files[:SHOWN]]
    return f"{', '.join(names)}{', ...' if len(files) > SHOWN else ''}"


def agreed(count: int, one: str, many: str) -> str:
    """The verb for so many."""
    return one if count == 1 else many


def counted(count: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
