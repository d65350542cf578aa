"""How names and counts stand in the lines about a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from train.data.images.file_kinds import kind
from train.text.display import readable

SHOWN = 3  # names in a line


def some(files: Sequence[Path | str]) -> str:
    """The first of the files' names."""
    names = [readable(file if isinstance(file, str) else file.name) for file in files[:SHOWN]]
    return f"{', '.join(names)}{', ...' if len(files) > SHOWN else ''}"


def by_kind(files: Sequence[Path]) -> str:
    """Files counted by their extensions, each with the first names."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        kinds[readable(kind(file)) or "no extension"].append(file)
    return ", ".join(f"{len(found)} {name} ({some(found)})" for name, found in kinds.items())


def agreed(count: int, one: str, many: str) -> str:
    """The verb for so many."""
    return one if count == 1 else many


def counted(count: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
