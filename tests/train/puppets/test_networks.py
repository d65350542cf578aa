"""What the networks of the drawn world are trained on, and how."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from train.data.reader import EMBEDDED_FOLDERS
from train.puppets.demo import DATA_SETS, STYLE, draw_dataset
from train.puppets.networks.autoencoder import (
    build,
    effect_on_pixels,
    reconstruct,
    rescale_latents,
)
from train.puppets.networks.clip import head_labels
from train.puppets.networks.clip_images import augmented, batches, crops_of_heads
from train.puppets.networks.clip_losses import attribute_loss, identity_loss
from train.puppets.networks.muon import Muon, orthogonalized
from train.puppets.networks.targets import COLORS, colors_of, labels_tensor, loss_weights, points_of
from train.puppets.networks.text_encoder import NAMES, attribute_labels
from train.puppets.world.attributes import VALUES, values_of
from train.puppets.world.captions import caption
from train.puppets.world.examples import (
    Drawing,
    Puppet,
    Toy,
    draw_many,
    images_of,
    keypoints,
    ordinary_looks,
    render,
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


def test_attributes_without_a_label_do_not_count_for_the_clip() -> None:
    labels = labels_tensor([Drawing(sample_puppet(Random(i))) for i in range(4)])
    sizes = [len(values) for values in VALUES.values()]
    right = torch.zeros(4, sum(sizes))
    for part, label in zip(right.split(sizes, dim=1), labels.T, strict=True):
        part[label >= 0, label[label >= 0]] = 50
    assert attribute_loss(right, labels) < 1e-6
    known = [size for size, label in zip(sizes, labels.T, strict=True) if (label >= 0).any()]
    assert len(known) == len(VALUES) - 2, "a puppet has no tilt and no side"
    chance = float(attribute_loss(torch.zeros(4, sum(sizes)), labels))
    assert chance == pytest.approx(sum(math.log(size) for size in known))


def test_the_clip_sees_heads_alone_and_reads_only_heads_off_them() -> None:
    torch.manual_seed(0)
    drawings = [Drawing(sample_puppet(Random(i), distance="far away")) for i in range(40)]
    faces = torch.zeros(40, 3, 64, 64)
    for face, noses in zip(faces, points_of(drawings)[:, 0], strict=True):
        x, y = (noses * 64).long().tolist()
        face[:, y - 2 : y + 3, x - 2 : x + 3] = 1
    crops = (augmented(faces, *crops_of_heads(drawings)).mean(1) > 0.3).float()
    middle = crops[:, 16:56, 12:52].sum((1, 2)) / crops.sum((1, 2))
    assert (crops.mean((1, 2)) > 3 * faces.mean()).all(), "the heads are enlarged"
    assert middle.median() > 0.8, "and a little below the middle"
    labels, colors = head_labels(drawings, ("head", "gaze"))
    known = {name for name, column in zip(VALUES, labels.T, strict=True) if (column >= 0).any()}
    assert known == {"head", "gaze"}
    visible = {name for name, c in zip(COLORS, colors.unbind(1), strict=True) if c.isfinite().any()}
    assert visible == {"skin", "head_color"}


def test_images_of_one_subject_are_alike_for_the_clip() -> None:
    first, second = ordinary_looks(Random(1)), ordinary_looks(Random(2))
    third = ordinary_looks(Random(3))
    subjects = [first, first, second, second, third]
    apart = torch.eye(3)[[0, 0, 1, 1, 2]]
    assert identity_loss(apart, subjects) < 1e-3
    assert identity_loss(apart[[0, 2, 0, 2, 4]], subjects) > 5
    expected = math.log(4)  # all alike: each of the four others is as near
    assert identity_loss(apart[[0] * 5], subjects).item() == pytest.approx(expected)


def test_a_batch_of_the_clip_has_twins_toys_alike_and_others_at_one_place() -> None:
    data = draw_many(400, seed=3)
    drawings, images, texts = batches(data, Random(1))(torch.arange(100))
    assert len(drawings) == len(images) == len(texts) == 100
    assert torch.equal(images, images_of(drawings))
    twins, toys, same = drawings[:25], drawings[25:45], drawings[45:75]
    assert len({d.subject.looks for d in twins}) == 1
    assert len({(d.subject.arms, d.subject.legs) for d in twins}) == 25  # type: ignore[union-attr]
    assert len({d.subject.looks.kind for d in toys}) == 1  # type: ignore[union-attr]
    assert len({d.subject.looks for d in toys}) == 10
    assert len({d.subject.background for d in same}) == 1
    assert len({d.subject.background for d in drawings[75:]}) > 4


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
        {"paper"},
    ]
    assert points_of(drawings).isfinite().all(2).all(1).tolist() == [True, False, True]
    assert labels_tensor(drawings)[:, list(VALUES).index("medium")].tolist() == [0, 0, -100]


def test_the_loss_counts_most_where_the_head_is_and_the_toy() -> None:
    puppets = [sample_puppet(Random(3), distance=d) for d in ("close up", "far away")]
    toy = sample_toy(Random(1))
    weights = loss_weights([*map(Drawing, puppets), Drawing(toy)])
    assert torch.allclose(weights.mean((1, 2, 3)), torch.ones(3))
    noses = [(keypoints(puppet)[0] * 16).astype(int) for puppet in puppets]
    near, far = (weights[i, 0, y, x] for i, (x, y) in enumerate(noses))
    assert far > near > 1
    assert all(weights[i].max() == weights[i, 0, y, x] for i, (x, y) in enumerate(noses))
    assert weights[0, 0, 0, 0] < 1
    x, y = (int(value / 2) for value in toy.position)
    assert weights[2, 0, y, x] > 1 > weights[2, 0, 0, 0]


def test_poses_places_and_outfits_can_be_seen_in_the_style() -> None:
    def image(**values: Any) -> bytes:
        return render(sample_puppet(Random(3), **values), style=STYLE).tobytes()

    for name in ("arms", "legs", "background"):
        images = {image(**{name: value}) for value in VALUES[name]}
        assert len(images) == len(VALUES[name]), name
    looks = [ordinary_looks(Random(1), outfit, "red") for outfit in VALUES["outfit"]]
    assert len({image(looks=one) for one in looks}) == len(looks)


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
        scenes = {drawing.subject.scene_seed for drawing in drawings}
        assert not scenes & {drawing.subject.scene_seed for drawing in held_out.drawings(1)}
    with pytest.raises(ValueError, match="'trigger' or 'full', not 'half'"):
        type(training)((), (), 0, training.draw, "sks", "half").caption(drawings[0])


@pytest.mark.parametrize(("name", "folder"), EMBEDDED_FOLDERS.items())
def test_the_committed_images_are_the_described_ones(name: str, folder: Path) -> None:
    training, held_out = DATA_SETS[folder.name]
    for shots, path, seed in ((training, folder, 0), (held_out, folder / "validation", 1)):
        drawings = shots.drawings(seed)
        files = sorted(path.glob("*.png"))
        assert len(files) == len(drawings), name
        for file, drawing in zip(files, drawings, strict=True):
            assert file.with_suffix(".txt").read_text() == shots.caption(drawing) + "\n"
        pixels = np.asarray(Image.open(files[0]).convert("RGB"))
        assert np.array_equal(pixels, render(drawings[0].subject, 256, drawings[0].style))


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


def test_rescaled_latents_vary_as_much_as_they_show_and_decode_the_same() -> None:
    rng = Random(5)
    torch.manual_seed(0)
    vae = build().eval()
    with torch.no_grad():
        vae.quant_conv.weight[3] = 0  # an unused channel
        vae.quant_conv.bias[3] = 0.5
        vae.post_quant_conv.weight[:, 3] = 0
        images = images_of([sample_drawing(rng) for _ in range(10)])
        before = reconstruct(vae, images)
        rescale_latents(vae, images)
        posterior = vae.encode(images.float() / 127.5 - 1).latent_dist
        effect = effect_on_pixels(vae, posterior.mean)
    latents = posterior.mean * vae.config.scaling_factor
    assert torch.allclose(reconstruct(vae, images), before, atol=1e-3)
    assert latents.std() == pytest.approx(1, abs=0.02)
    covariance = torch.cov(posterior.mean.transpose(0, 1).flatten(1))
    for matrix in (covariance, effect):  # the channels are the principal directions of both
        assert (matrix - matrix.diag().diag()).abs().max() < 0.02 * matrix.max()
    used = covariance.diag() > 0
    assert torch.allclose(effect.diag(), covariance.diag(), atol=0.03 * float(effect.max()))
    assert not used.all()
    assert posterior.std.max() < 0.01
