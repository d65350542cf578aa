"""Paths as people write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

# of a share on another machine, or a device: `//host/share`, `\\host\share`, `\??\UNC`
REMOTE = re.compile(r"[/\\]([/\\]|\?\?)")


def expanded(path: str | Path) -> Path:
    """The path with its leading `~` or `~name` replaced by that home folder.

    Where there is no such user or home, the path stays as it is, as in a shell; whoever opens it
    then says that it does not exist.
    """
    return Path(os.path.expanduser(path))


def is_remote(path: str | Path) -> bool:
    """Whether a path begins as one of another machine does.

    To look whether such a place is there asks that machine, and Windows logs in to it.
    """
    return bool(REMOTE.match(str(path)))


def is_below(place: Path, folder: Path) -> bool:
    """Whether a place is in a folder, the links to both followed; not where that cannot be told."""
    try:
        return place.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, a circle of links
        return False
