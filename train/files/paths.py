"""Paths as users write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

# a share on another machine, a device, or a URL: `//host/share`, `\\host\share`, `\??\UNC`, `http://`
REMOTE = re.compile(r"[/\\]([/\\]|\?\?)|[A-Za-z][A-Za-z0-9+.-]+://")


def expanded(path: str | Path) -> Path:
    """The path with its leading `~` or `~name` replaced by that home folder.

    If there is no such user or home, the path is unchanged, as in a shell; opening it then fails.
    """
    return Path(os.path.expanduser(path))


def is_remote(path: str | Path) -> bool:
    """Whether a path has the form of one on another machine.

    Even checking its existence contacts that machine, and Windows logs in to it.
    """
    return bool(REMOTE.match(str(path)))


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, after following links; False if it cannot be resolved."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, a loop of links
        return False
