"""What kohya reads from a folder's name: the repeats and the class words."""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBERED = re.compile(r"(\d{1,99})(?:_(.*))?", re.DOTALL)  # 10_sks person
MOST_REPEATS = 1000  # a larger number in front of a name is a year, a date or a camera's count


@dataclass(frozen=True)
class FolderName:
    """A folder's name that begins with a number.

    Attributes:
        number: in front of the name.
        digits: the same as it is written.
        words: what follows it, as it is written; empty where nothing does.
    """

    number: int
    digits: str
    words: str

    @property
    def has_repeats(self) -> bool:
        """Whether the number can be one of repeats, so that the rest is class words."""
        return 0 < self.number <= MOST_REPEATS


def folder_name(name: str) -> FolderName | None:
    """The parts of a folder's name; None where it does not begin with a number."""
    match = NUMBERED.fullmatch(name)
    return match and FolderName(int(match[1]), match[1], match[2] or "")
