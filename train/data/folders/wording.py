"""Formats names and counts for the messages about a dataset."""

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
    """Files counted by extension, each with the first names."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        kinds[readable(kind(file)) or "no extension"].append(file)
    return ", ".join(f"{len(group)} {name} ({some(group)})" for name, group in kinds.items())


def agreed(count: int, one: str, many: str) -> str:
    """The verb form for a count."""
    return one if count == 1 else many


def counted(count: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
