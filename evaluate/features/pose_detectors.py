"""The pose sources: three networks that detect joints, and the layout of an image."""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
)

from evaluate.config import ScoresConfig
from evaluate.features.clip import ClipEncoder
from evaluate.features.pose import HeadFrame, KeypointPoses, LayoutPoses, PoseSource
from train.config.parsing import cause
from train.errors import ConfigError
from train.files.paths import expanded
from train.puppets.networks.keypoints import KeypointNetwork
from train.puppets.networks.targets import HEAD_ABOVE, HEAD_SIDE
from train.puppets.networks.training import POSE
from train.text.display import shortened

# nose, left and right shoulder, elbow, wrist, hip, knee, ankle
COCO_JOINTS = [0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
BLAZE_JOINTS = [0, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
HEAD_AND_SHOULDERS = HeadFrame(side=2.4, above=0.2)  # from the shoulders to above the hair
WEIGHTS_ONLY_VARIABLE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # an environment variable, see torch.load
BATCH = 64
MAX_PEOPLE = 5  # the most people that are detected in an image


def main_subject(areas: Tensor, confidences: Tensor) -> int:
    """Index of the person that the image is of: the largest by area times confidence."""
    return int((areas * confidences).argmax())


class PuppetPoses(KeypointPoses):
    """Joints and heads by the bundled network."""

    def __init__(self, device: torch.device) -> None:
        super().__init__("puppets", HeadFrame(side=HEAD_SIDE, above=HEAD_ABOVE))
        self.device = device
        self.network = self.joints = KeypointNetwork.from_folder(POSE).to(device).eval()

    def read(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [self.joints(part.to(self.device)) for part in images.split(BATCH)]
        return torch.cat(parts).float().clone()


@contextmanager
def _weights_only() -> Iterator[None]:
    """Within this context torch.load accepts pickles of tensors only.

    torchvision's weights are a pickle, for which it requests a full load.
    """
    before = os.environ.get(WEIGHTS_ONLY_VARIABLE)
    os.environ[WEIGHTS_ONLY_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY_VARIABLE]
        else:
            os.environ[WEIGHTS_ONLY_VARIABLE] = before


class PersonPoses(KeypointPoses):
    """Joints by torchvision's Keypoint R-CNN."""

    def __init__(self, device: torch.device) -> None:
        super().__init__("keypointrcnn", HEAD_AND_SHOULDERS)
        self.device = device
        try:
            weights = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT
            with _weights_only():
                self.joints = keypointrcnn_resnet50_fpn(weights=weights).to(device).eval()
        except (OSError, RuntimeError, UnpicklingError) as error:
            raise ConfigError(
                f"scores.pose_detector: keypointrcnn's weights are not available ({cause(error)}); "
                "scores.pose_detector=layout needs none"
            ) from error
        self.network = self.joints

    def read(self, images: Tensor) -> Tensor:
        return torch.stack([self._subject(image.to(self.device)) for image in images])

    def _subject(self, image: Tensor) -> Tensor:
        with torch.inference_mode():
            detections = self.joints([image])[0]
        if not len(detections["scores"]):
            return torch.zeros(len(COCO_JOINTS), 3, device=self.device)
        boxes = detections["boxes"]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        best = main_subject(areas, detections["scores"])
        sides = torch.tensor([image.shape[-1], image.shape[-2]], device=self.device)
        positions = detections["keypoints"][best, COCO_JOINTS, :2] / sides
        confidence = (
            detections["keypoints_scores"][best, COCO_JOINTS].sigmoid() * detections["scores"][best]
        )
        return torch.cat([positions, confidence[:, None]], dim=-1).clone()


class Landmark(Protocol):
    """MediaPipe's result for a joint: position as fractions, and probability that it is visible."""

    x: float
    y: float
    visibility: float


class MediaPipePoses(KeypointPoses):
    """Joints by MediaPipe's pose landmarker, always on the CPU.

    Args:
        model: the landmarker's `.task` file.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, model: Path) -> None:
        super().__init__("mediapipe", HEAD_AND_SHOULDERS)
        try:
            self.package: Any = importlib.import_module("mediapipe")
            tasks = importlib.import_module("mediapipe.tasks.python")
        except ImportError as error:
            raise ConfigError(
                "scores.pose_detector: mediapipe is not installed; pip install mediapipe"
            ) from error
        options = tasks.vision.PoseLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(model)), num_poses=MAX_PEOPLE
        )
        self.file = model
        self.landmarker = tasks.vision.PoseLandmarker.create_from_options(options)
        atexit.register(self.landmarker.close)  # at interpreter exit it prints a traceback

    def read(self, images: Tensor) -> Tensor:
        return torch.stack([self._subject(image) for image in images])

    def _subject(self, image: Tensor) -> Tensor:
        pixels = (image.permute(1, 2, 0) * 255).round().byte().cpu().contiguous().numpy()
        image = self.package.Image(image_format=self.package.ImageFormat.SRGB, data=pixels)
        return landmarks(self.landmarker.detect(image).pose_landmarks)


def landmarks(people: list[list[Landmark]]) -> Tensor:
    """(13, 3): joints of the image's main subject, from the 33 MediaPipe landmarks of each."""
    if not people:
        return torch.zeros(len(BLAZE_JOINTS), 3)
    poses = torch.tensor(
        [[(p[i].x, p[i].y, p[i].visibility) for i in BLAZE_JOINTS] for p in people]
    )
    sides = poses[..., :2].amax(1) - poses[..., :2].amin(1)
    return poses[main_subject(sides.prod(1), poses[..., 2].mean(1))]


def pose_model(scores: ScoresConfig) -> Path | None:
    """The file that the pose detector needs; None if it needs none.

    Raises:
        ConfigError: there is no such file, or the detector does not read it.
    """
    name = scores.pose_model
    if scores.pose_detector != "mediapipe":
        if name:
            raise ConfigError(
                f"scores.pose_model: only mediapipe reads {shortened(name)}, and "
                f"scores.pose_detector is {scores.pose_detector}"
            )
        return None
    if not name or not expanded(name).is_file():
        raise ConfigError(
            f"scores.pose_model: mediapipe needs its pose landmarker's .task file, not {name}"
        )
    return expanded(name)


def pose_source(scores: ScoresConfig, encoder: ClipEncoder) -> PoseSource:
    """The source that `scores.pose_detector` names.

    Raises:
        ConfigError: there is no such source, or its weights are not available.
    """
    if scores.pose_detector == "puppets":
        return PuppetPoses(encoder.device)
    if scores.pose_detector == "keypointrcnn":
        return PersonPoses(encoder.device)
    if model := pose_model(scores):
        return MediaPipePoses(model)
    return LayoutPoses(encoder)
