"""The drawn world is consistent: its pictures, captions, and keypoints."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.puppets.networks.tokenizer import build
from train.puppets.world.attributes import VALUES, labels_of, phrase, values_of
from train.puppets.world.captions import (
    MAX_TOKENS,
    caption,
    describe,
    loose_caption,
)
from train.puppets.world.drawing import SIZE, render, render_background
from train.puppets.world.examples import draw_many, images_of, sample_drawing
from train.puppets.world.puppet import (
    ARMS,
    HEADS,
    LEGS,
    OUTFITS,
    Puppet,
    keypoints,
    sample_puppet,
    wild_looks,
)
from train.puppets.world.toys import KINDS, sample_toy


def test_every_value_changes_the_image() -> None:
    def image(**values: Any) -> np.ndarray:
        return render(sample_puppet(Random(3), **values))

    for name in ("arms", "legs", "background", "gaze", "expression", "distance"):
        images = [image(**{name: value}) for value in VALUES[name]]
        different = {image.tobytes() for image in images}
        assert len(different) == len(images), name
    assert (len(ARMS), len(LEGS), len(OUTFITS), len(VALUES["background"])) == (9, 4, 10, 8)


def test_same_seed_gives_the_same_images_in_any_process() -> None:
    first, second = draw_many(40, seed=5), draw_many(40, seed=5, workers=1)
    assert first.images.equal(second.images)
    assert first.images.shape == (40, 3, SIZE, SIZE)
    assert images_of(first.drawings).equal(first.images)
    assert {type(drawing.subject).__name__ for drawing in first.drawings} == {"Puppet", "Toy"}


def test_joints_are_inside_the_image_and_on_the_puppet() -> None:
    rng = Random(1)
    for _ in range(200):
        puppet = sample_puppet(rng)
        points = keypoints(puppet)
        assert points.shape == (13, 2)
        assert np.all((points > -0.05) & (points < 1.05))
        scene = render_background(puppet.background, puppet.scene_seed).astype(int)
        changed = np.abs(render(puppet).astype(int) - scene).sum(2) > 0
        inside = [p for p in points if np.all((p >= 0) & (p < 1))]
        hits = [changed[int(y * SIZE), int(x * SIZE)] for x, y in inside]
        assert np.mean(hits) > 0.8, puppet


def test_captions_fit_the_tokenizer_and_name_what_they_ask_for() -> None:
    rng, tokenizer = Random(2), build(MAX_TOKENS)
    drawings = [sample_drawing(rng) for _ in range(300)]
    for drawing in drawings:
        full = caption(drawing.subject, medium=drawing.medium)
        loose = loose_caption(drawing.subject, rng, drawing.medium)
        for text in (full, loose):
            assert len(tokenizer(text).input_ids) <= MAX_TOKENS, text
        assert drawing.subject.background in full
        assert describe(drawing.subject, rng, drawing.medium)
        labels = labels_of(drawing)
        values = values_of(drawing)
        assert [label == -100 for label in labels] == [value is None for value in values.values()]
        if isinstance(drawing.subject, Puppet) and drawing.subject.looks.color_name:
            looks = drawing.subject.looks
            assert f"wearing a {looks.color_name} {looks.outfit}" in full


@pytest.mark.parametrize("name", VALUES)
def test_phrases_are_different(name: str) -> None:
    phrases = {phrase(name, value) for value in VALUES[name]}
    assert len(phrases) == len(VALUES[name])
    assert all(len(build(MAX_TOKENS)(text).input_ids) <= MAX_TOKENS for text in phrases)


def test_heads_and_toys_are_all_drawn() -> None:
    rng = Random(4)
    heads = {sample_puppet(rng, wild_share=0.5).looks.head for _ in range(600)}
    assert heads == set(HEADS)
    kinds = {sample_toy(rng).looks.kind for _ in range(200)}
    assert kinds == set(KINDS)


def test_left_is_the_puppets_own_and_the_image_is_the_same_at_any_size() -> None:
    rng = Random(6)
    for _ in range(6):
        puppet = sample_puppet(rng)
        points = keypoints(puppet)
        assert points[1, 0] > points[2, 0], "its left shoulder is on the viewer's right"
        large = np.asarray(Image.fromarray(render(puppet, 4 * SIZE)).reduce(4)).astype(float)
        assert np.abs(large - render(puppet)).mean() < 3


def test_wild_looks_go_unmentioned() -> None:
    rng = Random(0)
    puppet = sample_puppet(
        rng, wild_looks(rng), "arms raised", "legs apart", "on a beach", "looking up", "smiling",
        "far away",
    )  # fmt: skip
    expected = (
        "a photo of a puppet, arms raised, legs apart, looking up, smiling, on a beach, far away"
    )
    assert (
        caption(replace(puppet, looks=replace(puppet.looks, glasses=None, accessory=None)))
        == expected
    )
