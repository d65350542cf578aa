"""Poses of pictures, and how alike two poses are."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
)

from evaluate.encoder import Encoder
from train.config import ConfigError
from train.puppets.keypoints import KeypointNetwork
from train.puppets.training import POSE

# the body among COCO's keypoints: nose, left and right shoulder, elbow, wrist, hip, knee, ankle
BODY = [0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
SIGMAS = torch.tensor([26, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
MIRROR = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]
NOSE, SHOULDERS, HIPS = 0, [1, 2], [7, 8]
BODY_AREA = 2.0  # of a person in COCO, in squares of the torso's length
CONFIDENT, JOINTS_NEEDED = 0.3, 7
BATCH = 64


class Frame(NamedTuple):
    """The square round a head, in distances from the nose to the middle of the shoulders.

    Attributes:
        side: of the square.
        above: how far its middle lies above the nose.
    """

    side: float
    above: float


class PoseSource(Protocol):
    """Reads poses off pictures and compares them.

    Attributes:
        head: where the heads are; None where there are no bodies.
    """

    name: str
    head: Frame | None

    def read(self, images: Tensor) -> Tensor:
        """(N, 3, H, W), 0 to 1 -> one pose a picture, (N, ...)."""

    def detected(self, poses: Tensor) -> Tensor:
        """(N,) true where there is a pose."""

    def similarity(self, some: Tensor, others: Tensor) -> Tensor:
        """(N, M), 1 for the same pose; the mirror image counts as the same."""


class KeypointPoses:
    """Poses as 13 joints (x, y, confidence); similarity is COCO's OKS on aligned bodies.

    Bodies are moved to the middle of the hips and scaled by the torso, so that only the posture
    counts: OKS = sum_i w_i exp(-d_i^2 / (2 A (2 sigma_i)^2)) / sum_i w_i, with w_i the product of
    the two confidences and A the area of a body (Ronchi and Perona 2017; COCO's sigmas).
    """

    def __init__(self, name: str, head: Frame) -> None:
        self.name = name
        self.head: Frame | None = head

    def detected(self, poses: Tensor) -> Tensor:
        return (poses[..., 2] > CONFIDENT).sum(-1) >= JOINTS_NEEDED

    def similarity(self, some: Tensor, others: Tensor) -> Tensor:
        a, b = aligned(some), aligned(others)
        mirrored = b[:, MIRROR] * torch.tensor([-1.0, 1.0, 1.0], device=b.device)
        return torch.maximum(oks(a, b), oks(a, mirrored))

    def read(self, images: Tensor) -> Tensor:
        raise TypeError("a source of keypoints reads in its own way")


def aligned(poses: Tensor) -> Tensor:
    """Joints (N, 13, 3) with the hips' middle at the origin and the torso of length 1."""
    places, confidence = poses[..., :2], poses[..., 2:]
    root = places[:, HIPS].mean(1, keepdim=True)
    torso = (places[:, SHOULDERS].mean(1) - root[:, 0]).norm(dim=-1)
    width = (places[:, SHOULDERS[0]] - places[:, SHOULDERS[1]]).norm(dim=-1)
    scale = torch.maximum(torso, width).clamp_min(1e-6)  # a bent body has a short torso
    return torch.cat([(places - root) / scale[:, None, None], confidence], dim=-1)


def oks(a: Tensor, b: Tensor) -> Tensor:
    """Object keypoint similarity (N, M) of aligned joints (N, 13, 3) and (M, 13, 3)."""
    squared = (a[:, None, :, :2] - b[None, :, :, :2]).square().sum(-1)
    tolerance = 2 * BODY_AREA * (2 * SIGMAS.to(a.device)).square()
    weight = a[:, None, :, 2] * b[None, :, :, 2]
    near = weight * torch.exp(-squared / tolerance)
    return near.sum(-1) / weight.sum(-1).clamp_min(1e-6)


class PuppetPoses(KeypointPoses):
    """Joints by the network that comes with the program; heads from the chin to the hat's top."""

    def __init__(self, device: torch.device) -> None:
        super().__init__("puppets", Frame(side=2.5, above=0.6))
        self.device = device
        self.network = KeypointNetwork.from_folder(POSE).to(device).eval()

    def read(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [self.network(part.to(self.device)) for part in images.split(BATCH)]
        return torch.cat(parts).float().clone()


class PersonPoses(KeypointPoses):
    """Joints by torchvision's Keypoint R-CNN; the subject is the largest sure person.

    Heads go from the shoulders to above the hair, as in a passport photograph.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__("keypointrcnn", Frame(side=2.4, above=0.2))
        self.device = device
        try:
            weights = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT
            self.network = keypointrcnn_resnet50_fpn(weights=weights).to(device).eval()
        except OSError as error:
            raise ConfigError(
                f"scores.pose: keypointrcnn's weights are not to be had ({error}); "
                "scores.pose=layout needs none"
            ) from error

    def read(self, images: Tensor) -> Tensor:
        return torch.stack([self._subject(image) for image in images])

    def _subject(self, image: Tensor) -> Tensor:
        with torch.inference_mode():
            found = self.network([image.to(self.device)])[0]
        if not len(found["scores"]):
            return torch.zeros(len(BODY), 3, device=self.device)
        boxes = found["boxes"]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        best = int((area * found["scores"]).argmax())
        sides = torch.tensor([image.shape[-1], image.shape[-2]], device=self.device)
        places = found["keypoints"][best, BODY, :2] / sides
        sure = found["keypoints_scores"][best, BODY].sigmoid() * found["scores"][best]
        return torch.cat([places, sure[:, None]], dim=-1).clone()


class LayoutPoses:
    """For subjects without a body: where in the picture the encoder sees what.

    Similarity is the mean cosine of the patches at the same place, the mirrored picture included.
    """

    name = "layout"
    head: Frame | None = None

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def read(self, images: Tensor) -> Tensor:
        both = (self.encoder.patch_features(images), self.encoder.patch_features(images.flip(-1)))
        return torch.stack(both, dim=1)

    def detected(self, poses: Tensor) -> Tensor:
        return torch.ones(len(poses), dtype=torch.bool, device=poses.device)

    def similarity(self, some: Tensor, others: Tensor) -> Tensor:
        straight = torch.einsum("npd,mpd->nm", some[:, 0], others[:, 0])
        mirrored = torch.einsum("npd,mpd->nm", some[:, 0], others[:, 1])
        return torch.maximum(straight, mirrored) / some.shape[2]


def pose_source(name: str, encoder: Encoder) -> PoseSource:
    """The source by its name in `scores.pose`.

    Raises:
        ConfigError: no such source, or its weights are not to be had.
    """
    if name == "puppets":
        return PuppetPoses(encoder.device)
    if name == "keypointrcnn":
        return PersonPoses(encoder.device)
    if name == "layout":
        return LayoutPoses(encoder)
    raise ConfigError(f"scores.pose: {name!r} is none of puppets, keypointrcnn, layout")
