"""Formats names and counts for the messages about a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from train.data.images.file_kinds import extension_of
from train.text.display import readable

MAX_NAMES = 3  # in a line of a message


def first_names(files: Sequence[Path | str]) -> str:
    """The first names of the files, separated by commas."""
    names = [readable(file if isinstance(file, str) else file.name) for file in files[:MAX_NAMES]]
    return f"{', '.join(names)}{', ...' if len(files) > MAX_NAMES else ''}"


def count_by_extension(files: Sequence[Path]) -> str:
    """The number of files of each extension, with the first names."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        kinds[readable(extension_of(file)) or "no extension"].append(file)
    return ", ".join(f"{len(group)} {name} ({first_names(group)})" for name, group in kinds.items())


def plural_form(count: int, one: str, many: str) -> str:
    """`one` if the count is 1, otherwise `many`: for verbs, pronouns and irregular nouns."""
    return one if count == 1 else many


def count_noun(count: int, noun: str) -> str:
    """The count and the noun: `1 image`, `2 images`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
