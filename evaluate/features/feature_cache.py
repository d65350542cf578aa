"""A cache on disk of the features of images, by the content of the images."""

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
from train.files.untrusted import UntrustedFileError, check_own_file, parse_json

log = logging.getLogger(__name__)
# the least number of dimensions of each tensor
DIMENSIONS = {"features": 2, "patches": 3, "subjects": 2, "poses": 3, "found": 1, "colors": 2}


@dataclass(frozen=True)
class FeatureCache:
    """Features of images that every start needs: the training images and the base's.

    A file's name is a hash of the pixels and of the extractor's networks and device, so the cached
    features are equal, to the byte, to what the networks would compute.

    Attributes:
        folder: of the files; a damaged file is rewritten.
    """

    extractor: FeatureExtractor
    folder: Path

    def extract(self, images: Tensor, countdown: Countdown) -> ImageFeatures:
        """Features of (N, 3, H, W), 0 to 1."""
        digest = hashlib.sha256(self.extractor.fingerprint.encode())
        digest.update(str(tuple(images.shape)).encode())
        for image in images:
            digest.update(image.contiguous().numpy())
        file = self.folder / f"readings-{digest.hexdigest()[:16]}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):  # of workers that start together, one computes for all
            cached = self._load(file, len(images))
            if cached is not None:
                countdown.skip(len(images))
                return cached
            features = self.extractor.extract(images, countdown)
            try:
                _save(features, file)
            except OSError as error:  # the only cost is a longer next start
                log.warning(f"{file} cannot be written: {error}")
            return features

    def _load(self, file: Path, count: int) -> ImageFeatures | None:
        """The cached features of `count` images; None if there are none."""
        if not file.exists():
            return None
        try:
            check_own_file(file)
            metadata = read_header(file).metadata["devices"]
            devices = parse_json(metadata, dict[str, str], "devices")
            kinds = {name.partition(":")[0] for name in devices.values()}
            if not kinds <= {"cpu", self.extractor.encoder.device.type}:
                raise UntrustedFileError("features from another device")
            with safe_open(file, "pt") as stored:
                features = ImageFeatures(**{
                    field.name: stored.get_tensor(field.name).to(devices[field.name])
                    for field in fields(ImageFeatures)
                })  # fmt: skip
            _check(features, count)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            log.warning(f"{file} cannot be used and is recreated: {error}")
            return None
        return features


def _check(features: ImageFeatures, count: int) -> None:
    """Rejects features whose shapes are not those of `count` images.

    Raises:
        UntrustedFileError: naming the first such tensor.
    """
    for field in fields(ImageFeatures):
        tensor = getattr(features, field.name)
        kind = tensor.dtype == torch.bool if field.name == "found" else tensor.is_floating_point()
        if not kind or tensor.ndim < DIMENSIONS[field.name] or len(tensor) != count:
            raise UntrustedFileError(f"{field.name} of other images")
    if features.colors.shape[1:] != (3,) or features.features.shape != features.subjects.shape:
        raise UntrustedFileError("features from another encoder")


def _save(features: ImageFeatures, file: Path) -> None:
    tensors: dict[str, Tensor] = {f.name: getattr(features, f.name) for f in fields(ImageFeatures)}
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    # cloned: tensors that share memory cannot be saved
    copies = {name: torch.clone(tensor).cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(file, save(copies, {"devices": json.dumps(devices)}))
