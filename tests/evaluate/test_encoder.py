"""The encoder of the scores: a real one, or a plain refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from evaluate.encoder import EMBEDDED_FOLDER, Encoder
from train.config import ConfigError

CPU = torch.device("cpu")


def test_features_are_unit_vectors_of_one_space() -> None:
    encoder = Encoder("puppets", CPU)
    images = encoder.image_features(torch.rand(2, 3, 32, 32))
    texts = encoder.text_features(["a photo of a puppet"])
    assert images.shape[1] == texts.shape[1]
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(2))
    assert encoder.patch_features(torch.rand(2, 3, 32, 32)).shape[:2] == (2, 64)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    bare = tmp_path / "clip"
    shutil.copytree(EMBEDDED_FOLDER, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ConfigError, match=r"scores\.encoder"):
        Encoder(str(bare), CPU)
