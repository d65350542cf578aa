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

from evaluate.console.progress import Countdown
from evaluate.features.extractor import FeatureExtractor, ImageFeatures
from train.files.atomic_write import write_atomically
from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError, parse_json

log = logging.getLogger(__name__)
# how many each reading has at least
DIMENSIONS = {"features": 2, "patches": 3, "subjects": 2, "poses": 3, "found": 1, "colors": 2}


@dataclass(frozen=True)
class FeatureCache:
    """A reader of pictures that are read again at the next start: training pictures, the base's.

    A file is known by the pixels of its pictures and by the reader's networks and device, so that
    the same readings come from it, to the byte, as from the networks.

    Attributes:
        folder: where the files are; one that is damaged is written anew.
    """

    reader: FeatureExtractor
    folder: Path

    def read(self, images: Tensor, countdown: Countdown) -> ImageFeatures:
        """(N, 3, H, W), 0 to 1."""
        digest = hashlib.sha256(self.reader.fingerprint.encode())
        digest.update(str(tuple(images.shape)).encode())
        for image in images:
            digest.update(image.contiguous().numpy())
        file = self.folder / f"readings-{digest.hexdigest()[:16]}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):  # of workers that begin together one reads for all
            known = self._load(file, len(images))
            if known is not None:
                countdown.skip(len(images))
                return known
            read = self.reader.read(images, countdown)
            try:
                _save(read, file)
            except OSError as error:  # without it the next start takes longer, and that is all
                log.warning(f"{file} cannot be written: {error}")
            return read

    def _load(self, file: Path, count: int) -> ImageFeatures | None:
        """The readings of so many pictures; None where there are none."""
        if not file.exists():
            return None
        try:
            told = read_header(file).metadata["devices"]
            devices = parse_json(told, dict[str, str], "devices")
            kinds = {name.partition(":")[0] for name in devices.values()}
            if not kinds <= {"cpu", self.reader.encoder.device.type}:
                raise UntrustedFileError("readings of another device")
            with safe_open(file, "pt") as stored:
                found = ImageFeatures(**{
                    field.name: stored.get_tensor(field.name).to(devices[field.name])
                    for field in fields(ImageFeatures)
                })  # fmt: skip
            _check(found, count)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            log.warning(f"{file} cannot be used and is made anew: {error}")
            return None
        return found


def _check(found: ImageFeatures, count: int) -> None:
    """Refuses readings whose shapes are not those of so many pictures.

    Raises:
        UntrustedFileError: with the first that is none.
    """
    for field in fields(ImageFeatures):
        tensor = getattr(found, field.name)
        kind = tensor.dtype == torch.bool if field.name == "found" else tensor.is_floating_point()
        if not kind or tensor.ndim < DIMENSIONS[field.name] or len(tensor) != count:
            raise UntrustedFileError(f"{field.name} of other pictures")
    if found.colors.shape[1:] != (3,) or found.features.shape != found.subjects.shape:
        raise UntrustedFileError("readings of another encoder")


def _save(read: ImageFeatures, file: Path) -> None:
    tensors: dict[str, Tensor] = {f.name: getattr(read, f.name) for f in fields(ImageFeatures)}
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    apart = {name: torch.clone(tensor).cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(file, save(apart, {"devices": json.dumps(devices)}))
