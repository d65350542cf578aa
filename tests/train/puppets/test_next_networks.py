"""What the networks of the 64-pixel world are trained on."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image
from torch import nn

from train.puppets.next_networks.clip import named_in
from train.puppets.next_networks.demo import DATA_SETS, STYLE, draw_dataset
from train.puppets.next_networks.muon import Muon, orthogonalized
from train.puppets.next_networks.targets import COLORS, colors_of, labels_tensor, points_of
from train.puppets.next_networks.text_encoder import NAMES, attribute_labels
from train.puppets.next_world.attributes import VALUES, values_of
from train.puppets.next_world.captions import caption, describe
from train.puppets.next_world.examples import (
    Drawing,
    Puppet,
    Toy,
    ordinary_looks,
    sample_drawing,
    sample_puppet,
    sample_toy,
)


def test_labels_of_a_full_caption_are_the_drawings_values() -> None:
    rng = Random(2)
    names = list(NAMES)
    for _ in range(300):
        drawing = sample_drawing(rng, wild_share=0.0)
        labels = attribute_labels(caption(drawing.subject, None, drawing.medium))
        named = {n: NAMES[n][i - 1] for n, i in zip(names, labels, strict=True) if i}
        for name, value in values_of(drawing).items():
            if name != "head":  # there with its color
                assert named.get(name) == value, (name, drawing)
        if isinstance(drawing.subject, Puppet):
            looks = drawing.subject.looks
            assert str(looks.head_color_name) in named["head"]
            assert named.get("glasses") == looks.glasses
            assert named.get("accessory") == looks.accessory


def test_a_description_names_what_it_contains() -> None:
    rng = Random(4)
    for _ in range(200):
        drawing = sample_drawing(rng, wild_share=0.0)
        full = describe(drawing.subject, rng, drawing.medium, keep=1.0)
        expected = [value is not None for value in values_of(drawing).values()]
        assert named_in(drawing, full) == expected, full
        bare = f"{drawing.medium} of a {values_of(drawing)['kind']}"
        kept = {name for name, named in zip(VALUES, named_in(drawing, bare), strict=True) if named}
        assert kept <= {"kind", "medium"}


def test_colors_and_joints_are_unknown_where_they_cannot_be_seen() -> None:
    rng = Random(1)
    puppet, toy = sample_puppet(rng, ordinary_looks(rng)), sample_toy(rng)
    drawings = [Drawing(puppet), Drawing(toy), Drawing(puppet, STYLE, "an image")]
    seen = colors_of(drawings).isfinite().all(2)
    visible = [
        {name for name, is_seen in zip(COLORS, row, strict=True) if is_seen}
        for row in seen.tolist()
    ]
    assert visible == [
        {"skin", "head_color", "color", "second_color"},
        {"color", "second_color"},
        {"paper", "ink"},
    ]
    assert points_of(drawings).isfinite().all(2).all(1).tolist() == [True, False, True]
    assert labels_tensor(drawings)[:, list(VALUES).index("medium")].tolist() == [0, 0, -100]


def test_data_sets_have_their_poses_places_and_captions(tmp_path: Path) -> None:
    for name, (training, held_out) in DATA_SETS.items():
        drawings = draw_dataset(tmp_path / name, training, 0)
        assert len(drawings) == training.count
        assert {drawing.subject.background for drawing in drawings} == {*training.backgrounds}
        poses = {
            (d.subject.tilt, d.subject.side)
            if isinstance(d.subject, Toy)
            else (d.subject.arms, d.subject.legs)
            for d in drawings
        }
        assert poses == {*training.poses}
        assert Image.open(tmp_path / name / "01.png").size == (256, 256)
        texts = [file.read_text() for file in sorted((tmp_path / name).glob("*.txt"))]
        assert all(training.trigger in text for text in texts)
        assert (len({*texts}) > 1) == (name == "style"), "only a style needs to name what it shows"
        assert held_out.drawings(1) != drawings[: held_out.count]
    with pytest.raises(ValueError, match="'trigger' or 'full', not 'half'"):
        type(training)((), (), 0, training.draw, "sks", "half").caption(drawings[0])


def test_muon_orthogonalizes_matrices_and_learns() -> None:
    torch.manual_seed(0)
    for shape in ((8, 30), (30, 8), (16, 16)):
        values = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 1, 3, padding=1))
    images = torch.rand(64, 1, 8, 8)
    target = images.roll(1, 3)
    losses = []
    optimizer = Muon(network.parameters(), 5e-3)
    for _ in range(60):
        loss = (network(images) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
