"""Writes files so that a crash leaves the old content or the new, never a part."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from train.errors import CheckpointError
from train.text.display import storable

_link_free_folders: set[Path] = set()  # folders below which nothing is written through links


def forbid_links(folder: Path) -> None:
    """From now on, nothing is written below this folder through a link, nor if it is one."""
    _link_free_folders.add(Path(os.path.abspath(folder)))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash it is complete, unchanged, or absent.

    If several processes write the same path, the last writer wins. A link in place of the file is
    replaced, not followed.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full; or its path
            contains a forbidden link (see `forbid_links`).
    """
    _refuse_links(path)
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < len(content):
            reason = f"it takes {len(content) / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
            raise OSError(errno.ENOSPC, reason)
        with partial.open("xb") as stream:  # a newly created file is not a link
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is left by an interrupted write
            partial.unlink()


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text in UTF-8, with surrogates escaped; see `write_atomically`.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_atomically(path, storable(text).encode())


def _refuse_links(path: Path) -> None:
    """Raises CheckpointError if the path of a file contains a forbidden link."""
    folder_path = Path(os.path.abspath(path)).parent
    ancestors = [folder_path, *folder_path.parents]
    for folder in _link_free_folders.intersection(ancestors):
        for ancestor in ancestors[: ancestors.index(folder) + 1]:
            if ancestor.is_symlink():
                raise CheckpointError(f"{path} is not written: {ancestor} is a link; remove it")
