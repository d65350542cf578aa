"""The scores against a known truth: renders of an ideal LoRA, of a copying one, and of the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evaluate.config import ProbesConfig, ScoresConfig
from evaluate.features.color import mean_colors
from evaluate.features.head_crop import head_crops
from evaluate.features.pose import HeadFrame, KeypointPoses, aligned, oks
from evaluate.generation.generate import generate
from evaluate.metrics.base import Share
from evaluate.metrics.fidelity import SubjectFidelity
from evaluate.metrics.memorization import vendi
from evaluate.prompts.roles import CAPTION, CLASS, FRESH
from evaluate.scorecard import Scorecard
from evaluate.scorer import Scorer
from train.config.schema import BaseConfig, DataConfig, NetworkConfig
from train.data.dataset import load_dataset
from train.lora.checkpoint import CheckpointError
from train.lora.injection import weight_shape
from train.models.base_model import load_base
from train.puppets.demo import CHARACTERS, OBJECT, STYLE
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    SIZE,
    Drawing,
    Puppet,
    images_of,
    ordinary_looks,
    render_background,
    sample_puppet,
    sample_toy,
    with_outfit,
)

PROBES = ProbesConfig(attributes="puppets", count=32, steps=8, guidance=3.0)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    cache = tmp_path_factory.mktemp("cache")
    base = load_base(BaseConfig(device="cpu"))
    dataset = load_dataset(DataConfig(resolution=SIZE))
    return Scorer(
        base, dataset, DataConfig(resolution=SIZE), PROBES, ScoresConfig(baseline=2), cache
    )


def layout_scorer(name: str, trigger: str, cache: Path) -> Scorer:
    """The scorer of embedded images whose layouts are compared."""
    data = DataConfig(path=name, trigger=trigger, resolution=SIZE)
    probes = ProbesConfig(attributes=name, count=PROBES.count, steps=6, guidance=3.0)
    scores = ScoresConfig(pose_detector="layout", baseline=2)
    base = load_base(BaseConfig(device="cpu"))
    return Scorer(base, load_dataset(data), data, probes, scores, cache)


def score(scorer: Scorer, images: Tensor) -> Scorecard:
    """The scorecard of images that no LoRA has generated."""
    none = torch.zeros(0)
    read = scorer.extractor.extract(images)
    return scorer.scorecard(Path("lora-000001.safetensors"), 1, images, read, (none, none))


def as_asked(scorer: Scorer, wild: bool, bleeding: bool = False) -> list[Puppet]:
    """Renders of what every probe asks for: of the training character, or of ordinary puppets."""
    random, puppets = Random(3), []
    for probe in scorer.probe_set.probes:
        requested = probe.asked
        known = wild and (probe.role != CLASS or bleeding)
        looks = CHARACTERS[0] if known else ordinary_looks(random)
        if requested:
            looks = with_outfit(looks, random, requested["outfit"], requested["color"])
        pose = requested.get("arms"), requested.get("legs"), requested.get("background")
        puppets.append(sample_puppet(random, looks, *pose))
    return puppets


def drawn(puppets: list[Puppet]) -> Tensor:
    return images_of([Drawing(puppet) for puppet in puppets]).float() / 255


def test_scores_of_the_first_probes_are_on_the_scale_of_all(scorer: Scorer) -> None:
    """As in the rounds of a final: each probe contributes the same, however many there are yet."""
    images = drawn(as_asked(scorer, wild=False))
    whole = score(scorer, images)
    for count in (8, 20):
        part = score(scorer, images[:count])
        assert part.scores.keys() | {"class_bleed"} == whole.scores.keys()  # it comes last
        for name in ("prompt_fidelity", "subject_fidelity", "copying"):
            values = part.by_probe[name]
            assert 0 < len(values) < len(whole.by_probe[name])
            assert values == pytest.approx(whole.by_probe[name][: len(values)], abs=1e-5)


def test_scores_distinguish_ideal_copying_and_untrained(scorer: Scorer) -> None:
    ideal = score(scorer, drawn(as_asked(scorer, wild=True))).scores
    plain = score(scorer, drawn(as_asked(scorer, wild=False))).scores
    copies = scorer.training_images.repeat(3, 1, 1, 1)[: PROBES.count]
    copied = score(scorer, copies).scores
    for name in ("pose_memorization", "background_leak", "outfit_leak", "copying"):
        assert ideal[name].value <= 0.15, name
        assert copied[name].value >= 0.8, name
        assert copied[name].low > ideal[name].high, name
    assert ideal["subject_fidelity"].value > 0.7
    assert -0.2 < plain["subject_fidelity"].value < 0.1
    assert ideal["prompt_fidelity"].value > 0.9
    assert copied["prompt_fidelity"].value < 0.5
    assert copied["pose_diversity"].value < ideal["pose_diversity"].value
    assert ideal["detection_rate"].value == 1


def test_toy_is_compared_by_its_layout_and_has_no_outfit(tmp_path: Path) -> None:
    toys = layout_scorer("puppets_object", "sks lamp", tmp_path)
    assert toys.metrics.undefined["outfit_leak"] == "the probes ask for no outfits"
    random, drawings = Random(3), []
    for probe in toys.probe_set.probes:
        looks = None if probe.role == CLASS else OBJECT
        tilt, side, background = (probe.asked.get(part) for part in ("tilt", "side", "background"))
        drawings.append(Drawing(sample_toy(random, looks, tilt, side, background)))
    ideal = score(toys, images_of(drawings).float() / 255).scores
    copied = score(toys, toys.training_images.repeat(3, 1, 1, 1)[: PROBES.count]).scores
    for name in ("pose_memorization", "background_leak", "copying"):
        assert copied[name].low > ideal[name].high, name
    assert ideal["subject_fidelity"].value > 0.6
    assert ideal["prompt_fidelity"].value > copied["prompt_fidelity"].value + 0.3


def test_style_is_told_from_what_its_images_show(tmp_path: Path) -> None:
    drawings = layout_scorer("puppets_style", "sks drawing", tmp_path)
    reason = drawings.metrics.undefined["outfit_leak"]
    assert reason == "the training images show no outfits in particular"
    assert "outfit_leak" not in drawings.names
    random, ideal_images = Random(4), []
    for probe in drawings.probe_set.probes:
        looks = ordinary_looks(random)
        if "outfit" in probe.asked:
            looks = with_outfit(looks, random, probe.asked["outfit"], "red")
        arms, legs, place = (probe.asked.get(part) for part in ("arms", "legs", "background"))
        ideal_images.append(Drawing(sample_puppet(random, looks, arms, legs, place), STYLE, ""))
    ideal = score(drawings, images_of(ideal_images).float() / 255).scores
    copied = score(drawings, drawings.training_images.repeat(2, 1, 1, 1)[: PROBES.count]).scores
    assert "outfit_leak" not in ideal
    for name in ("pose_memorization", "background_leak", "copying"):
        assert ideal[name].value < 0.2, name
        assert copied[name].low > ideal[name].high, name
    assert ideal["subject_fidelity"].value > 0.6
    assert ideal["prompt_fidelity"].value > copied["prompt_fidelity"].value + 0.3


def test_class_bleed_of_a_lora_that_changes_the_class(scorer: Scorer) -> None:
    remaining = score(scorer, drawn(as_asked(scorer, wild=True))).scores["class_bleed"]
    bled = score(scorer, drawn(as_asked(scorer, wild=True, bleeding=True))).scores["class_bleed"]
    assert remaining.value < 0.2
    assert bled.value > 0.6
    assert bled.low > remaining.high


def test_color_shift_is_measured_in_delta_e(scorer: Scorer) -> None:
    plain = scorer.baseline_images.generate(scorer.probe_set.probes)
    assert score(scorer, plain).scores["color_shift"].value < 3
    gray = torch.full_like(plain, 0.5)
    assert mean_colors(gray[:1])[0].tolist() == pytest.approx([53.6, 0, 0], abs=0.5)
    red = torch.zeros_like(plain[:1])
    red[:, 0] = 1
    assert mean_colors(red)[0].tolist() == pytest.approx([54.3, 80.8, 69.9], abs=1)
    warm = (plain + torch.tensor([0.15, 0.0, -0.15]).view(1, 3, 1, 1)).clamp(0, 1)
    cast = score(scorer, warm).scores["color_shift"]
    assert 12 < cast.value < 40
    assert cast.low > 10


def test_images_without_a_subject_are_noted(scorer: Scorer) -> None:
    random = Random(0)
    empty = [render_background(random.choice(BACKGROUNDS), i) for i in range(PROBES.count)]
    images = torch.from_numpy(np.stack(empty)).permute(0, 3, 1, 2).float() / 255
    card = score(scorer, images)
    assert card.scores["detection_rate"].value < 0.3
    assert card.scores["subject_fidelity"].value < 0.1
    assert any("finds a pose in" in note for note in card.notes)


def test_half_copied_images_score_half(scorer: Scorer) -> None:
    puppets = as_asked(scorer, wild=True)
    random = Random(5)
    poses = [("arms spread", "legs apart"), ("hands on hips", "legs together")]
    for i in range(0, len(puppets), 2):
        copy = sample_puppet(random, puppets[i].looks, *poses[i // 2 % 2])
        puppets[i] = replace(copy, background=puppets[i].background)
    card = score(scorer, drawn(puppets)).scores["pose_memorization"]
    assert card.low <= 0.5 <= card.high
    assert abs(card.value - 0.5) < 0.2


def test_probes_ask_for_what_the_training_images_lack(scorer: Scorer) -> None:
    probe_set = scorer.probe_set
    fresh = [probe_set.probes[row] for row in probe_set.rows(FRESH)]
    requested = {part: {p.asked[part] for p in fresh} for part in ("arms", "background")}
    assert requested["background"] == {*BACKGROUNDS} - {"on a beach", "in a city"}
    assert requested["arms"] == {*ARMS} - {"arms spread", "hands on hips", "one arm waving"}
    assert (len(fresh), len(probe_set.rows(CLASS)), len(probe_set.rows(CAPTION))) == (24, 4, 4)
    for probe in probe_set.probes:
        assert ("sks puppet" in probe.prompt) == (probe.role != CLASS)
    captions = {probe_set.probes[row].prompt for row in probe_set.rows(CAPTION)}
    assert captions == {"a photo of sks puppet"}
    assert all("sks" not in p.base_prompt for p in scorer.probe_set.probes)


def test_image_is_the_same_alone_and_in_a_pack(scorer: Scorer) -> None:
    base, random = scorer.base, torch.Generator().manual_seed(0)
    adapters = [base.adapters.create(NetworkConfig(rank=4), random) for _ in range(2)]
    for adapter in adapters:
        for up in adapter.up.values():
            torch.nn.init.normal_(up, std=0.05, generator=random)
    prompts, seeds = [p.prompt for p in scorer.probe_set.probes[:3]], [7, 8, 9]
    batched = generate(base, adapters, prompts, seeds, SIZE, 4, 3.0)
    assert batched.shape == (2, 3, 3, SIZE, SIZE)
    assert (batched[0] - batched[1]).abs().max() > 0.05
    for k, adapter in enumerate(adapters):
        for i in range(3):
            single = generate(base, [adapter], prompts[i : i + 1], seeds[i : i + 1], SIZE, 4, 3.0)
            torch.testing.assert_close(single[0, 0], batched[k, i], atol=1 / 255, rtol=0)


def test_oks_by_hand() -> None:
    pose = torch.zeros(1, 13, 3)
    pose[..., 2] = 1
    pose[0, [1, 2], :2] = torch.tensor([[0.6, 0.2], [0.4, 0.2]])
    pose[0, [7, 8], :2] = torch.tensor([[0.55, 0.6], [0.45, 0.6]])
    pose[0, 5, :2] = torch.tensor([0.9, 0.4])
    source = KeypointPoses("by hand", HeadFrame(2.0, 0.0))
    moved = pose.clone()
    moved[..., :2] = pose[..., :2] * 0.5 + 0.2
    assert source.similarity(pose, moved).item() == pytest.approx(1, abs=1e-5)
    mirrored = pose.clone()
    mirrored[..., 0] = 1 - mirrored[..., 0]
    swap = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]
    assert source.similarity(pose, mirrored[:, swap]).item() == pytest.approx(1, abs=1e-5)
    other = pose.clone()
    other[0, 5, 0] -= 0.4  # the left wrist, by one torso (0.4 of the side)
    expected = (12 + torch.exp(torch.tensor(-1 / (2 * 2.0 * (2 * 0.062) ** 2)))) / 13
    assert oks(aligned(pose), aligned(other)).item() == pytest.approx(expected.item(), abs=1e-5)
    other[0, 5, 2] = 0.0
    assert oks(aligned(pose), aligned(other)).item() == pytest.approx(1, abs=1e-5)


def test_head_crop_is_the_square_around_the_head() -> None:
    poses = torch.full((1, 13, 3), 0.9)
    poses[0, :3, :2] = torch.tensor([[0.5, 0.4], [0.6, 0.5], [0.4, 0.5]])  # nose, shoulders
    image = torch.zeros(1, 3, 100, 100)
    image[:, :, 25:45, 40:60] = 1  # a square of two nose-to-shoulder distances, half of one above
    assert head_crops(image, poses, HeadFrame(2.0, 0.5), 16).min() > 0.99
    wider = head_crops(image, poses, HeadFrame(4.0, 0.5), 16)
    assert wider.mean().item() == pytest.approx(1 / 4, abs=0.02)
    assert wider[..., 4:12, 4:12].min() > 0.4


def test_subject_fidelity_at_half_the_distance_and_without_a_subject() -> None:
    angles = torch.tensor([0.0, 0.2, -0.2])  # features on a circle, where distances are known
    training = torch.stack([angles.cos(), angles.sin()], dim=1)
    far = torch.tensor([[-1.0, 0.0]])
    likeness = SubjectFidelity(training, far, torch.zeros(0, 2))
    base, own = (likeness.base_distance, likeness.training_distance)
    expected = float((base + own) / 2)
    turns = torch.linspace(0, 3.14, 2000)
    circle = torch.stack([turns.cos(), turns.sin()], dim=1)
    distances = torch.cdist(circle, training).mean(1)
    half = circle[(distances - expected).abs().argmin()].repeat(4, 1)
    likeness.update(half, torch.ones(4, dtype=torch.bool))
    assert likeness.compute()[0].item() == pytest.approx(0.5, abs=0.01)
    likeness.reset()
    likeness.update(training[:2].repeat(2, 1), torch.zeros(4, dtype=torch.bool))
    assert likeness.compute()[0].item() == pytest.approx(0, abs=1e-6)


def test_share_intervals_have_a_width_and_subtract_the_base_rate() -> None:
    share = Share(base_rate=0.05, confidence=0.9)
    share.update(torch.zeros(24))
    value, low, high = share.compute().tolist()
    assert (value, low) == (0, 0)
    assert 0.03 < high < 0.15
    guessed = Share(base_rate=0.05, base_count=96, confidence=0.9)
    guessed.update(torch.zeros(24))
    assert high + 0.002 < guessed.compute()[2].item() < high + 0.03
    share = Share(base_rate=0.2)
    share.update(torch.tensor([1.0, 1, 1, 0, 0]))
    assert share.compute()[0].item() == pytest.approx((0.6 - 0.2) / 0.8)
    share = Share(base_rate=1.0)
    share.update(torch.ones(5))
    assert share.compute().tolist() == [0, 0, 1]


def test_vendi_score_counts_distinct_items() -> None:
    everything = torch.arange(6).unsqueeze(0)
    assert vendi(torch.eye(6), everything).item() == pytest.approx(6, abs=1e-3)
    assert vendi(torch.ones(6, 6), everything).item() == pytest.approx(1, abs=1e-3)


def test_weights_that_are_not_finite_fail_only_their_scorecard(
    scorer: Scorer, tmp_path: Path
) -> None:
    """The rest of the pack is scored; a missing file is still an error."""
    key = next(iter(scorer.base.adapters.modules))
    rows, *columns = weight_shape(scorer.base.adapters.modules[key])
    ends = [1] * (len(columns) - 1)
    files = {tmp_path / f"{name}.safetensors": value for name, value in
             (("bad", torch.nan), ("good", 0.0), ("worse", torch.inf))}  # fmt: skip
    for file, value in files.items():
        save_file({f"{key}.lora_down.weight": torch.ones(1, *columns),
                   f"{key}.lora_up.weight": torch.full((rows, 1, *ends), value)}, file)  # fmt: skip
    cards = scorer({file: epoch for epoch, file in enumerate(files, start=1)})
    assert [card.epoch for card in cards] == [1, 2, 3]
    assert ["not finite" in card.failure for card in cards] == [True, False, True]
    assert cards[1].scores
    assert not cards[0].scores
    shapes = {card.images.shape for card in cards if card.images is not None}
    assert len(shapes) == 1
    assert scorer(dict.fromkeys([*files][:1], 1))[0].failure
    with pytest.raises(CheckpointError, match="there is no file"):
        scorer({tmp_path / "none.safetensors": 1})
