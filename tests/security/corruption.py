"""Changes files of models, or replaces them by pipes, devices and garbage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def set_json_value(file: Path, *path: str, value: Any) -> None:
    """Sets a value in a JSON file."""
    content = json.loads(file.read_text()) if file.exists() else {}
    inner = content
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    file.write_text(json.dumps(content))


def make_pipe(file: Path) -> None:
    """Replaces the file by a pipe without a writer."""
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def link_to_device(file: Path) -> None:
    """Replaces the file by a link to an endless device."""
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


def write_garbage(file: Path) -> None:
    """Writes the beginning of a pickle."""
    file.write_bytes(b"\x80\x04garbage")


def write_nested_json(file: Path) -> None:
    """Writes JSON that is nested too deeply."""
    file.write_text("[" * 100_000)


def write_other_json(file: Path) -> None:
    """Writes valid JSON with other keys."""
    file.write_text('{"a": {"b": [1, 2, {"c": null}]}}')


CORRUPTIONS = (make_pipe, link_to_device, write_garbage, write_nested_json, write_other_json)
