"""Poses and their similarity, for bodies and for subjects without one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluate.features.clip import ClipEncoder

# of the joints nose, left and right shoulder, elbow, wrist, hip, knee, ankle: COCO's tolerances
SIGMAS = torch.tensor([26, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
MIRROR = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]
NOSE, SHOULDERS, HIPS = 0, [1, 2], [7, 8]
BODY_AREA = 2.0  # of a person in COCO, in units of the squared torso length
MIN_CONFIDENCE, MIN_JOINTS = 0.3, 7
LAYOUT_SIDE = 14  # the largest number of patches per side in a layout, as of a ViT-B/16


class HeadFrame(NamedTuple):
    """The square around a head, in units of the distance from nose to middle of the shoulders.

    Attributes:
        side: of the square.
        above: height of its center above the nose.
    """

    side: float
    above: float


class PoseSource(Protocol):
    """Detects poses in images and compares them.

    Attributes:
        head: the square around a head; None if the source has no bodies.
        network: the detector, if it runs in torch.
        file: of the detector, if something else runs it.
    """

    name: str
    head: HeadFrame | None
    network: nn.Module | None
    file: Path | None

    def read(self, images: Tensor) -> Tensor:
        """(N, 3, H, W), 0 to 1 -> one pose for each image, (N, ...)."""

    def detected(self, poses: Tensor) -> Tensor:
        """(N,) true if a pose is detected."""

    def similarity(self, poses: Tensor, others: Tensor) -> Tensor:
        """(N, M), 1 for equal poses; mirror images count as equal."""


class KeypointPoses:
    """Poses as 13 joints (x, y, confidence); similarity is COCO's OKS on aligned bodies.

    Bodies are centered on the hips and scaled by the torso, so that only the posture counts:
    OKS = sum_i w_i exp(-d_i^2 / (2 A (2 sigma_i)^2)) / sum_i w_i, with w_i the product of the two
    confidences and A the area of a body (Ronchi and Perona 2017; COCO's sigmas).
    """

    def __init__(self, name: str, head: HeadFrame) -> None:
        self.name = name
        self.head: HeadFrame | None = head
        self.network: nn.Module | None = None
        self.file: Path | None = None

    def detected(self, poses: Tensor) -> Tensor:
        return (poses[..., 2] > MIN_CONFIDENCE).sum(-1) >= MIN_JOINTS

    def similarity(self, poses: Tensor, others: Tensor) -> Tensor:
        a, b = aligned(poses), aligned(others)
        mirrored = b[:, MIRROR] * torch.tensor([-1.0, 1.0, 1.0], device=b.device)
        return torch.maximum(oks(a, b), oks(a, mirrored))

    def read(self, images: Tensor) -> Tensor:
        raise TypeError("a subclass of KeypointPoses detects the keypoints")


def aligned(poses: Tensor) -> Tensor:
    """Joints (N, 13, 3) with the center of the hips at the origin and a torso of length 1."""
    positions, confidence = poses[..., :2], poses[..., 2:]
    root = positions[:, HIPS].mean(1, keepdim=True)
    torso = (positions[:, SHOULDERS].mean(1) - root[:, 0]).norm(dim=-1)
    width = (positions[:, SHOULDERS[0]] - positions[:, SHOULDERS[1]]).norm(dim=-1)
    scale = torch.maximum(torso, width).clamp_min(1e-6)  # a bent body has a short torso
    return torch.cat([(positions - root) / scale[:, None, None], confidence], dim=-1)


def oks(a: Tensor, b: Tensor) -> Tensor:
    """Object keypoint similarity (N, M) of aligned joints (N, 13, 3) and (M, 13, 3)."""
    squared = (a[:, None, :, :2] - b[None, :, :, :2]).square().sum(-1)
    tolerance = 2 * BODY_AREA * (2 * SIGMAS.to(a.device)).square()
    weight = a[:, None, :, 2] * b[None, :, :, 2]
    agreement = weight * torch.exp(-squared / tolerance)
    return agreement.sum(-1) / weight.sum(-1).clamp_min(1e-6)


class LayoutPoses:
    """Layouts, for subjects without a body: which patches of an image resemble each other.

    A layout is the cosines of all pairs of an image's patch features (global self-similarity,
    Shechtman and Irani 2007; of deep features, Tumanyan et al. 2022). It depends on shapes and
    positions but hardly on colors and strokes, so that images in a style that was learned do not
    all have the layout of a training image. Similarity is the correlation of two images' cosines,
    of the image or its mirror image.
    """

    name = "layout by self-similarity"
    head: HeadFrame | None = None
    network: nn.Module | None = None
    file: Path | None = None

    def __init__(self, encoder: ClipEncoder) -> None:
        self.encoder = encoder

    def read(self, images: Tensor) -> Tensor:
        pair = images, images.flip(-1)
        both = [self.encoder.patch_features(each, LAYOUT_SIDE) for each in pair]
        patches = torch.stack(both, dim=1)  # (N, 2, P, d)
        row, column = torch.triu_indices(patches.shape[2], patches.shape[2], 1).tolist()
        cosines = (patches @ patches.mT)[:, :, row, column]
        return functional.normalize(cosines - cosines.mean(-1, keepdim=True), dim=-1)

    def detected(self, poses: Tensor) -> Tensor:
        return torch.ones(len(poses), dtype=torch.bool, device=poses.device)

    def similarity(self, poses: Tensor, others: Tensor) -> Tensor:
        straight, mirrored = poses[:, 0] @ others[:, 0].T, poses[:, 0] @ others[:, 1].T
        return torch.maximum(straight, mirrored)
