"""Files of models that are changed, or replaced by what is no such file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def change(file: Path, *path: str, value: Any) -> None:
    """Sets a value in a JSON file."""
    content = json.loads(file.read_text()) if file.exists() else {}
    inner = content
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    file.write_text(json.dumps(content))


def pipe(file: Path) -> None:
    """A pipe that nobody writes to."""
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def device(file: Path) -> None:
    """A link to a device without an end."""
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


def garbage(file: Path) -> None:
    """How a pickle begins."""
    file.write_bytes(b"\x80\x04garbage")


def nested(file: Path) -> None:
    """JSON that is nested too deeply."""
    file.write_text("[" * 100_000)


def other(file: Path) -> None:
    """JSON of something else."""
    file.write_text('{"a": {"b": [1, 2, {"c": null}]}}')


SPOILED = (pipe, device, garbage, nested, other)
