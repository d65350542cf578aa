"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with its leading `~` or `~name` replaced by that home folder.

    Where there is no such user or home, the path stays as it is, as in a shell; whoever opens it
    then says that it does not exist.
    """
    return Path(os.path.expanduser(path))


def is_below(place: Path, folder: Path) -> bool:
    """Whether a place is in a folder, the links to both followed; not where that cannot be told."""
    try:
        return place.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, a circle of links
        return False
