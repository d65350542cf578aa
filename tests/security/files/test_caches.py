"""A link in place of a cache entry may lead to another user's file and is not read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from evaluate.features.feature_cache import FeatureCache
from evaluate.generation import baseline_images
from train.cache.tensor_cache import TensorCache
from train.files import safetensors_header

KEY = "ab" * 32


def read_tensor(link: Path) -> object:
    folder = link.parent.parent
    return TensorCache(folder).fetch(KEY, lambda: {"mean": torch.ones(1)}).tensors["mean"].item()


def read_features(link: Path) -> object:
    extractor = SimpleNamespace(encoder=SimpleNamespace(device=torch.device("cpu")))
    return FeatureCache(cast(Any, extractor), link.parent)._load(link, 2)


def read_images(link: Path) -> object:
    return baseline_images._read(link, (2, 3, 8, 8))


@pytest.mark.parametrize(
    ("read", "expected"), [(read_tensor, 1.0), (read_features, None), (read_images, None)]
)
def test_link_is_not_followed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], object],
    expected: object,
) -> None:
    target = tmp_path / "theirs.safetensors"
    save_file({"mean": torch.zeros(1), "images": torch.zeros(2, 3, 8, 8).byte()}, target)
    link = tmp_path / "cache" / KEY[:2] / f"{KEY}.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    opened: list[Path] = []
    for module in ("train.cache.tensor_cache", "evaluate.features.feature_cache",
                   "evaluate.generation.baseline_images"):  # fmt: skip
        monkeypatch.setattr(f"{module}.read_header", opened.append)
    assert read(link) == expected
    assert not opened
    assert safetensors_header.read_header(target).tensors, "the other file is unchanged"
