"""Parses kohya's folder names: the repeats and the class words."""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBERED = re.compile(r"(\d{1,99})(?:_(.*))?", re.DOTALL)  # 10_sks person
MAX_REPEATS = 1000  # a larger number is a year, a date or a camera's counter


@dataclass(frozen=True)
class FolderName:
    """A folder's name that begins with a number.

    Attributes:
        number: at the beginning of the name.
        digits: the number as written.
        words: the rest as written; may be empty.
    """

    number: int
    digits: str
    words: str

    @property
    def has_repeats(self) -> bool:
        """Whether the number is plausible as repeats, so that the rest is class words."""
        return 0 < self.number <= MAX_REPEATS


def folder_name(name: str) -> FolderName | None:
    """The parts of a folder's name; None if it does not begin with a number."""
    match = NUMBERED.fullmatch(name)
    return match and FolderName(int(match[1]), match[1], match[2] or "")
