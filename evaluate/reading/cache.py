"""What was read off pictures once is kept on disk, by the content of the pictures."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evaluate.progress import Countdown
from evaluate.reading.readings import Reader, Readings
from train.weights_file import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadingCache:
    """A reader of pictures that are read again at the next start: training pictures, the base's.

    A file is known by the pixels of its pictures and by the reader's networks and device, so that
    the same readings come from it, to the byte, as from the networks.

    Attributes:
        folder: where the files are; one that is damaged is written anew.
    """

    reader: Reader
    folder: Path

    def read(self, images: Tensor, countdown: Countdown) -> Readings:
        """(N, 3, H, W), 0 to 1."""
        digest = hashlib.sha256(self.reader.fingerprint.encode())
        digest.update(str(tuple(images.shape)).encode())
        for image in images:
            digest.update(image.contiguous().numpy())
        file = self.folder / f"readings-{digest.hexdigest()[:16]}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):  # of workers that begin together one reads for all
            known = self._load(file)
            if known is not None:
                countdown.skip(len(images))
                return known
            read = self.reader.read(images, countdown)
            try:
                _save(read, file)
            except OSError as error:  # without it the next start takes longer, and that is all
                log.warning(f"{file} cannot be written: {error}")
            return read

    def _load(self, file: Path) -> Readings | None:
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as stored:
                devices = json.loads(stored.metadata()["devices"])
                return Readings(**{
                    field.name: stored.get_tensor(field.name).to(devices[field.name])
                    for field in fields(Readings)
                })  # fmt: skip
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            log.warning(f"{file} cannot be used and is made anew: {error}")
            return None


def _save(read: Readings, file: Path) -> None:
    tensors: dict[str, Tensor] = {f.name: getattr(read, f.name) for f in fields(Readings)}
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    apart = {name: torch.clone(tensor).cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(file, save(apart, {"devices": json.dumps(devices)}))
