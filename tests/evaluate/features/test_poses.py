"""Pose sources: which of several people is the subject, and errors for unavailable sources."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from evaluate.config import ScoresConfig
from evaluate.features.clip import ClipEncoder
from evaluate.features.pose import LayoutPoses
from evaluate.features.pose_detectors import (
    BLAZE_JOINTS,
    COCO_JOINTS,
    PersonPoses,
    landmarks,
    pose_source,
)
from train.errors import ConfigError

CPU = torch.device("cpu")


def person(side: float, confidence: float) -> dict[str, Tensor]:
    """The output of torchvision's network for one person whose box is a square of this side."""
    keypoints = torch.full((1, 17, 3), side)
    return {
        "boxes": torch.tensor([[0.0, 0.0, side, side]]),
        "scores": torch.tensor([confidence]),
        "keypoints": keypoints,
        "keypoints_scores": torch.full((1, 17), 9.0),
    }


def people(*some: dict[str, Tensor]) -> PersonPoses:
    """The source with a fake network, since its weights are not available in tests."""
    source = object.__new__(PersonPoses)
    PersonPoses.__mro__[1].__init__(source, "keypointrcnn", None)  # type: ignore[misc]
    source.device = CPU
    result = {key: torch.cat([one[key] for one in some]) for key in person(1, 1)}
    source.joints = lambda images: [result]
    return source


def test_subject_is_the_largest_confident_person() -> None:
    read = people(person(20, 0.9), person(60, 0.95), person(80, 0.1)).read(
        torch.zeros(1, 3, 100, 100)
    )
    assert read.shape == (1, len(COCO_JOINTS), 3)
    torch.testing.assert_close(read[0, :, :2], torch.full((13, 2), 0.6))
    assert people(person(60, 0.9)).detected(read).tolist() == [True]
    unsure = people(person(60, 0.2)).read(torch.zeros(1, 3, 100, 100))
    assert people(person(60, 0.9)).detected(unsure).tolist() == [False]


def test_image_without_a_person_has_no_pose() -> None:
    source = people(person(1, 1))
    source.joints = lambda images: [{"scores": torch.zeros(0)}]
    assert source.detected(source.read(torch.zeros(1, 3, 8, 8))).tolist() == [False]
    assert landmarks([]).shape == (13, 3)


def test_mediapipe_landmarks_map_to_the_same_joints() -> None:
    def somebody(size: float, visibility: float) -> list[SimpleNamespace]:
        return [SimpleNamespace(x=i / 33 * size, y=size * (i % 2), visibility=visibility)
                for i in range(33)]  # fmt: skip

    joints = landmarks([somebody(0.2, 0.9), somebody(0.8, 0.8), somebody(0.9, 0.1)])  # type: ignore[list-item]
    torch.testing.assert_close(joints[:, 0], torch.tensor([i / 33 * 0.8 for i in BLAZE_JOINTS]))
    torch.testing.assert_close(joints[:, 2], torch.full((13,), 0.8))


def test_unavailable_pose_sources_say_what_to_do() -> None:
    encoder = ClipEncoder("puppets", CPU)
    with pytest.raises(ConfigError, match=r"pose_model: mediapipe needs .*\.task file"):
        pose_source(ScoresConfig(pose_detector="mediapipe"), encoder)
    assert isinstance(pose_source(ScoresConfig(pose_detector="layout"), encoder), LayoutPoses)
    with pytest.raises(
        ConfigError, match=r"pose_model: only mediapipe reads a.task, and .* layout"
    ):
        pose_source(ScoresConfig(pose_detector="layout", pose_model="a.task"), encoder)
