"""The prompts of probes, for the checkpoint and for the base model."""

from __future__ import annotations

from pathlib import Path

import torch

from evaluate.config import ProbesConfig
from evaluate.prompts.attributes import load_attributes
from evaluate.prompts.probe_set import make_probe_set
from evaluate.prompts.roles import CAPTION
from tests.train.data.test_layouts import load, write_images


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
