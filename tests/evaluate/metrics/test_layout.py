"""Layouts of subjects without a body, on drawings whose layout is known."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch

from evaluate.features.clip import ClipEncoder
from evaluate.features.pose import LAYOUT_SIDE, LayoutPoses
from evaluate.metrics.memorization import PoseMemorization
from train.puppets.demo import FEW_BACKGROUNDS, FEW_POSES, OBJECT, STYLE
from train.puppets.world.examples import (
    BACKGROUNDS,
    Drawing,
    Style,
    ToyLooks,
    images_of,
    sample_puppet,
    sample_toy,
)
from train.puppets.world.styles import PHOTO, STYLES

COUNT = 48
FRESH_PLACES = [place for place in BACKGROUNDS if place not in FEW_BACKGROUNDS]


@pytest.fixture(scope="module")
def layouts() -> LayoutPoses:
    return LayoutPoses(ClipEncoder("puppets", torch.device("cpu")))


def memorization(
    layouts: LayoutPoses, training: list[Drawing], base: list[Drawing]
) -> Callable[[list[Drawing]], tuple[float, ...]]:
    """A function from drawings to their score: estimate, lower and upper bound."""

    def read(drawings: list[Drawing]) -> torch.Tensor:
        return layouts.read(images_of(drawings).float() / 255)

    metric = PoseMemorization(layouts, read(training), read(base))

    def score(drawings: list[Drawing]) -> tuple[float, ...]:
        metric.reset()
        metric.update(read(drawings))
        return tuple(metric.compute().tolist())

    return score


def test_toy_in_its_training_layout_at_a_new_place_is_recognized(layouts: LayoutPoses) -> None:
    rng = Random(0)

    def toys(looks: ToyLooks | None, tilts: list[str], sides: list[str], places: list[str],
             count: int = COUNT) -> list[Drawing]:  # fmt: skip
        return [
            Drawing(sample_toy(rng, looks or _other_lamp(rng), rng.choice(tilts), rng.choice(sides),
                               rng.choice(places), "close up"))
            for _ in range(count)
        ]  # fmt: skip

    fresh = ["leaning", "lying"], ["on the left", "on the right"]
    known = ["upright"], ["in the middle"]
    training = toys(OBJECT, *known, list(FEW_BACKGROUNDS), 12)
    score = memorization(layouts, training, toys(None, *fresh, FRESH_PLACES))
    assert score(toys(OBJECT, *known, FRESH_PLACES))[1] > 0.8
    assert score(toys(OBJECT, *fresh, FRESH_PLACES))[0] < 0.15
    assert score(toys(None, *fresh, FRESH_PLACES))[0] < 0.15


def _other_lamp(rng: Random) -> ToyLooks:
    color = rng.randrange(256), rng.randrange(256), rng.randrange(256)
    return ToyLooks("lamp", color, color, rng.choice(("plain", "striped")), wild=True)


def test_style_that_was_learned_is_no_repeated_layout(layouts: LayoutPoses) -> None:
    rng = Random(1)
    fresh = [(arms, legs) for arms in ("arms raised", "arms flexed", "arms crossed")
             for legs in ("one leg lifted", "squatting")]  # fmt: skip

    def puppets(style: Style, poses: list[tuple[str, str]], places: list[str],
                count: int = COUNT) -> list[Drawing]:  # fmt: skip
        return [
            Drawing(sample_puppet(rng, None, *rng.choice(poses), background=rng.choice(places),
                                  wild_share=0.0), style, "")
            for _ in range(count)
        ]  # fmt: skip

    training = puppets(STYLE, list(FEW_POSES), list(FEW_BACKGROUNDS), 16)
    score = memorization(layouts, training, puppets(STYLES[PHOTO], fresh, FRESH_PLACES))
    learned = score(puppets(STYLE, fresh, FRESH_PLACES))
    repeated = score(puppets(STYLE, list(FEW_POSES), list(FEW_BACKGROUNDS)))
    assert learned[0] < 0.15
    assert repeated[1] > learned[2], "its images at its places are recognized"


def test_layout_of_a_large_grid_is_averaged(layouts: LayoutPoses) -> None:
    images = torch.rand(2, 3, 64, 64)
    side = 12  # of the embedded encoder's grid
    assert side <= LAYOUT_SIDE
    assert layouts.read(images).shape == (2, 2, side**2 * (side**2 - 1) // 2)
    few = layouts.encoder.patch_features(images, 5)
    assert few.shape[:2] == (2, 25)
    torch.testing.assert_close(few.norm(dim=-1), torch.ones(2, 25))
    same = layouts.similarity(layouts.read(images), layouts.read(images.flip(-1)))
    torch.testing.assert_close(same.diagonal(), torch.ones(2))
