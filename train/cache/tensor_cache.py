"""A content-addressed cache of tensors, in memory and on disk.

A key is the sha256 of everything that determines the tensors, so an entry is never stale.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from train.errors import CheckpointError
from train.files.atomic_write import write_atomically
from train.files.paths import expanded
from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError, check_own_file

log = logging.getLogger(__name__)
VERSION = 1  # changing it invalidates all entries on disk


@dataclass(frozen=True, eq=False)
class CachedTensor:
    """Tensors by name, on the CPU."""

    tensors: dict[str, Tensor]


# shared by everything that a process trains, as long as any of it is in use
_entries_in_use: WeakValueDictionary[str, CachedTensor] = WeakValueDictionary()


def key_of(*about: object) -> str:
    """The key of what is computed from these values, which must be JSON-serializable."""
    return hashlib.sha256(json.dumps([VERSION, *about]).encode()).hexdigest()


class TensorCache:
    """Looks tensors up, or computes them.

    Args:
        folder: of the entries for other processes and later runs; None: in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = expanded(folder) if folder else None
        self.hits = self.misses = 0

    def fetch(
        self,
        key: str,
        make: Callable[[], dict[str, Tensor]],
        fits: Callable[[dict[str, Tensor]], bool] = lambda _: True,
    ) -> CachedTensor:
        """The tensors under this key.

        Args:
            fits: whether an entry on disk is plausible; if not, it is computed again.
        """
        entry = _entries_in_use.get(key) or self._read(key, fits)
        self.hits, self.misses = self.hits + bool(entry), self.misses + (not entry)
        if entry is None:
            entry = CachedTensor(
                {name: tensor.cpu().contiguous() for name, tensor in make().items()}
            )
        self._write(key, entry)
        _entries_in_use[key] = entry
        return entry

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Context manager: only one process at a time fills the folder; others wait for it."""
        if self.folder is None:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info(f"waiting for another process that fills {self.folder}")
                lock.acquire()
        except (OSError, NotImplementedError) as error:  # no locks there, or not writable
            self._disable_disk(str(error))
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _file(self, folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str, fits: Callable[[dict[str, Tensor]], bool]) -> CachedTensor | None:
        if self.folder is None or not (file := self._file(self.folder, key)).exists():
            return None
        try:
            check_own_file(file)
            read_header(file)
            tensors = load_file(file)
            if not fits(tensors):
                raise UntrustedFileError("other tensors")
            return CachedTensor(tensors)
        except (SafetensorError, UntrustedFileError, OSError):
            log.warning(f"{file} is damaged and is recreated")
            with suppress(OSError):  # not removable; the tensors stay in memory
                file.unlink(missing_ok=True)
            return None

    def _write(self, key: str, entry: CachedTensor) -> None:
        if self.folder is None or self._file(self.folder, key).exists():
            return
        try:
            write_atomically(self._file(self.folder, key), save(entry.tensors))
        except CheckpointError as error:
            self._disable_disk(str(error))

    def _disable_disk(self, reason: str) -> None:
        log.warning(f"cache=disk: {reason}; this run keeps what it computes in memory")
        self.folder = None
