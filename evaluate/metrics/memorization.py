"""What a checkpoint repeats of its training images: their poses, or whole images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evaluate.features.pose import PoseSource
from evaluate.metrics.base import Score, Share

TINY = 1e-6  # smaller distances count as zero
NULL_QUANTILE = 0.05  # share of the base's poses that count as memorized by definition


class PoseMemorization(Share):
    """Share of images whose pose is nearer to a training pose than the base's poses usually are.

    The radius is the 5% quantile of the distances 1 - OKS from the base's poses (same probes) to
    their nearest training pose; these 5% are subtracted: (share - 0.05) / 0.95. The base is the
    reference because a small training set's own leave-one-out radius (authenticity, Alaa et al.
    2022) shrinks to nothing if its poses are clustered.

    Args:
        training, base: detected poses of the training images and of the base's images.
    """

    def __init__(self, source: PoseSource, training: Tensor, base: Tensor, **options: Any) -> None:
        super().__init__(base_rate=NULL_QUANTILE, base_count=len(base), **options)
        self.source, self.bank = source, training
        nearest = source.similarity(base, training).max(1).values if len(base) else torch.ones(1)
        self.radius = torch.quantile(nearest, 1 - NULL_QUANTILE)
        if not len(base):
            self.undefined_reason = "no pose is found in the base's images"
        elif not self.radius < 1 - TINY:
            self.undefined_reason = "the base's images have the training poses already"

    def nearness(self, poses: Tensor) -> Tensor:
        """(N,) similarity to the nearest training pose."""
        return self.source.similarity(poses, self.bank).max(1).values

    def update(self, *features: Tensor) -> None:
        """Detected poses, (N, ...)."""
        super().update((self.nearness(features[0]) > self.radius).float())


class PoseDiversity(Score):
    """Vendi score (Friedman and Dieng 2023) of the poses, relative to the base's (same probes).

    exp of the entropy of the eigenvalues of K / N, with K the OKS kernel; 1: as varied as the base.

    Args:
        base: (N, ...) the base's poses, in the order of the probes.
    """

    kernel: Tensor

    def __init__(self, source: PoseSource, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.source, self.base_detected = source, source.detected(base)
        self.register_buffer("kernel", source.similarity(base, base).cpu())
        self.rows = torch.zeros(0, dtype=torch.long)

    def update(self, *features: Tensor) -> None:
        """Poses of the first M probes, (M, ...), in one call and in order."""
        poses = features[0]
        detected = self.source.detected(poses) & self.base_detected[: len(poses)]
        self.rows = detected.nonzero().squeeze(1)
        super().update(self.source.similarity(poses[self.rows], poses[self.rows]))

    def compute(self) -> Tensor:
        """As `Score.compute`; nan if fewer than two probes have a pose in both."""
        if len(self.rows) < 2:
            return torch.full((3,), torch.nan)
        return super().compute()

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        rows = self.rows.cpu()
        return vendi(values, index) / vendi(self.kernel[rows][:, rows], index)


def vendi(kernel: Tensor, index: Tensor) -> Tensor:
    """Vendi scores (R,) of the resamples index (R, N) of a kernel (N, N)."""
    resampled = kernel[index[:, :, None], index[:, None, :]]
    # the maximum over mirror images is not positive definite: negative eigenvalues are clamped
    weights = torch.linalg.eigvalsh((resampled + resampled.mT) / 2).clamp_min(1e-12)
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.exp(-(weights * weights.log()).sum(-1))


class Copying(Share):
    """Share of images that are copies of a training image.

    Distances are between patch features, so that positions count: of two images of one subject in
    one place, only a copy is near in every patch. A copy is nearer to a training image than half
    the median distance of the base's images to their nearest one. The base is the reference because
    the training images' distances from each other (authenticity, Alaa et al. 2022) vanish if two
    of them show the same moment, and such datasets are the most prone to copies. The share is
    adjusted for the base's own rate b: max(0, (g - b) / (1 - b)).

    Args:
        training: (n, P, d) unit patch features of the training images.
        base: (m, P, d) of the base's images.
    """

    bank: Tensor
    radius: Tensor

    def __init__(self, training: Tensor, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("bank", flatten_patches(training))
        null = self.distance(base)
        self.register_buffer("radius", null.median() / 2)
        self.base_rate = float((null < self.radius).float().mean())
        if not self.radius > TINY:
            self.undefined_reason = "the base's images are the training images already"

    def distance(self, patches: Tensor) -> Tensor:
        """(N,) distance to the nearest training image: root mean square over the patches."""
        return torch.cdist(flatten_patches(patches), self.bank).min(1).values

    def nearest(self, patches: Tensor) -> Tensor:
        """(N,) index of the nearest training image."""
        return torch.cdist(flatten_patches(patches), self.bank).argmin(1)

    def update(self, *features: Tensor) -> None:
        """Unit patch features, (N, P, d)."""
        super().update((self.distance(features[0]) < self.radius).float())


def flatten_patches(patches: Tensor) -> Tensor:
    """(N, P, d) -> (N, P * d), so that distances are root mean squares over the patches."""
    return patches.cpu().flatten(1) / patches.shape[1] ** 0.5
