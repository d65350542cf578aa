"""The features of images that the scores are computed from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from evaluate.console.progress import Countdown
from evaluate.features.clip import ClipEncoder
from evaluate.features.color import mean_colors
from evaluate.features.head_crop import head_crops
from evaluate.features.pose import PoseSource


@dataclass(frozen=True)
class ImageFeatures:
    """Features of N images.

    Attributes:
        features: (N, d) of the whole image, unit vectors.
        patches: (N, P, d) of its patches, unit vectors.
        subjects: (N, d) of the head; of the whole image if the pose source has no bodies.
        poses: (N, ...) by the pose source.
        found: (N,) whether a pose is detected.
        colors: (N, 3) mean CIELAB.
    """

    features: Tensor
    patches: Tensor
    subjects: Tensor
    poses: Tensor
    found: Tensor
    colors: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: list[int] | slice) -> ImageFeatures:
        """The features of some of the images."""
        return ImageFeatures(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """The features of all images of the parts, in order."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    @property
    def detected_poses(self) -> Tensor:
        """Poses of the images in which one is detected."""
        return self.poses[self.found]


@dataclass(frozen=True)
class FeatureExtractor:
    """Extracts features in batches, on the device of its networks."""

    encoder: ClipEncoder
    source: PoseSource

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """The networks are on their device only within this context, so training has its memory."""
        device = self.encoder.device
        networks = [n for n in (self.encoder.model, self.source.network) if n is not None]
        for network in networks:
            network.to(device)
        try:
            yield
        finally:
            if device.type != "cpu":
                for network in networks:
                    network.to("cpu")
                torch.cuda.empty_cache()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything besides the images that the features depend on."""
        encoder, source = self.encoder, self.source
        key_parts = (encoder.size, encoder.mean.tolist(), encoder.std.tolist(), encoder.device.type,
                 encoder.batch, source.name, source.head, torch.__version__)  # fmt: skip
        digest = hashlib.sha256(repr(key_parts).encode())
        for network in (encoder.model.visual, source.network):
            for name, tensor in (network.state_dict() if network is not None else {}).items():
                digest.update(name.encode())
                flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(flat.numpy())
        if source.file is not None:
            digest.update(source.file.read_bytes())
        return digest.hexdigest()

    def extract(self, images: Tensor, countdown: Countdown | None = None) -> ImageFeatures:
        """Features of (N, 3, H, W), 0 to 1; the countdown is updated after each batch."""
        parts = []
        for batch in images.split(self.encoder.batch):
            parts.append(self._extract_batch(batch))
            if countdown is not None:
                countdown.step(len(batch))
        return ImageFeatures.joined(parts)

    def _extract_batch(self, images: Tensor) -> ImageFeatures:
        features, poses = self.encoder.image_features(images), self.source.read(images)
        subjects = features
        if self.source.head is not None:
            side = max(self.encoder.size)
            heads = head_crops(images, poses, self.source.head, side)
            subjects = self.encoder.image_features(heads)
        return ImageFeatures(
            features=features,
            patches=self.encoder.patch_features(images),
            subjects=subjects,
            poses=poses,
            found=self.source.detected(poses),
            colors=mean_colors(images),
        )
