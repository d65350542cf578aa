"""Cached features of images equal those that are computed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch

from evaluate.config import ScoresConfig
from evaluate.console.progress import Countdown, duration
from evaluate.features.clip import ClipEncoder
from evaluate.features.extractor import FeatureExtractor, ImageFeatures
from evaluate.features.feature_cache import FeatureCache
from evaluate.features.pose import LayoutPoses
from evaluate.features.pose_detectors import pose_source
from train.data.folders.wording import count_noun


@dataclass(frozen=True)
class CountingExtractor(FeatureExtractor):
    """An extractor that records the sizes of its batches."""

    seen: list[int] = None  # type: ignore[assignment]

    def extract(self, images: torch.Tensor, countdown: Countdown | None = None) -> ImageFeatures:
        self.seen.append(len(images))
        return super().extract(images, countdown)


def same(one: ImageFeatures, other: ImageFeatures) -> bool:
    return all(
        torch.equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(ImageFeatures)
    )


def test_features_are_cached_by_content(tmp_path: Path) -> None:
    encoder = ClipEncoder("puppets", torch.device("cpu"))
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    observed: list[int] = []
    bodies = CountingExtractor(encoder, pose_source(ScoresConfig(), encoder), observed)
    cache, countdown = FeatureCache(bodies, tmp_path), Countdown("reads", 10)
    first = cache.extract(images, countdown)
    assert (observed, countdown.done) == ([5], 5)
    assert same(cache.extract(images, countdown), first)
    assert (observed, countdown.total) == ([5], 5)
    cache.extract(images.flip(0), countdown)
    FeatureCache(CountingExtractor(encoder, LayoutPoses(encoder), observed), tmp_path).extract(
        images, countdown
    )
    assert observed == [5, 5, 5], "other images, or another source of poses, are read"
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:200])
    assert same(cache.extract(images, countdown), first), "a damaged file is made anew"
    assert observed == [5, 5, 5, 5]


def test_long_stage_logs_progress(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("evaluate.console.progress.time.monotonic", lambda: now[0])
    caplog.set_level("INFO")
    countdown = Countdown("the base model generates", 40)
    for _ in range(3):
        now[0] += 60
        countdown.step(10)
    assert "the base model generates 10 of 40 images, about 3 min left" in caplog.text
    assert "30 of 40 images, about 60 s left" in caplog.text
    assert (count_noun(1, "trial"), count_noun(2, "trial"), duration(7200)) == (
        "1 trial",
        "2 trials",
        "2 h 00 min",
    )
