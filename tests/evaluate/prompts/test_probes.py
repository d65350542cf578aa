"""The prompts of probes, for the checkpoint and for the base model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluate.config import ProbesConfig
from evaluate.prompts.attributes import load_attributes
from evaluate.prompts.probe_set import MIN_VALUES, make_probe_set
from evaluate.prompts.roles import CAPTION, FRESH
from tests.train.data.test_layouts import load, write_images
from train.config.schema import EMBEDDED_IMAGES
from train.puppets.world.attributes import VALUES


class Encoder:
    """Classifies everything as the first value."""

    def text_features(self, phrases: list[str]) -> torch.Tensor:
        return torch.eye(len(phrases), 64)


def test_caption_probes_ask_the_base_for_the_class(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b")
    (tmp_path / "a.txt").write_text("ana woman eating a banana")
    (tmp_path / "b.txt").write_text("a banana for ana")
    dataset = load(tmp_path, trigger="ana woman")
    created = make_probe_set(
        ProbesConfig(count=16), load_attributes("puppets"), dataset, Encoder(),  # type: ignore[arg-type]
        torch.eye(1, 64).expand(2, 64), {},
    )  # fmt: skip
    requested = {(p.prompt, p.base_prompt) for p in created.probes if p.role == CAPTION}
    assert requested == {
        ("ana woman eating a banana", "woman eating a banana"),
        ("a banana for ana", "a banana for woman"),
    }


def test_the_rarest_values_are_asked_for_if_captions_name_all(tmp_path: Path) -> None:
    values = load_attributes("puppets").kinds["backgrounds"]["background"]
    names = [*values, *values[:-1], *values[:-1]]
    write_images(tmp_path, *(f"{i:02d}" for i in range(len(names))))
    for i, name in enumerate(names):
        (tmp_path / f"{i:02d}.txt").write_text(f"sks puppet, {name}, number {i}")
    created = make_probe_set(
        ProbesConfig(count=16), load_attributes("puppets"), load(tmp_path, trigger="sks puppet"),
        Encoder(), torch.eye(len(names), 64), {},  # type: ignore[arg-type]
    )  # fmt: skip
    asked = {p.asked["background"] for p in created.probes if p.role == FRESH}
    assert values[-1] in asked
    assert len(asked) == MIN_VALUES


@pytest.mark.parametrize("name", EMBEDDED_IMAGES)
def test_attributes_of_the_embedded_images_are_those_of_the_drawn_world(name: str) -> None:
    kinds = load_attributes(name).kinds
    assert all(tuple(values) == VALUES[part]
               for parts in kinds.values() for part, values in parts.items())  # fmt: skip
    assert {*kinds["backgrounds"]} == {"background"}
