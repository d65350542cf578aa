"""A home folder that does not exist is a path like any other: not found, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluate.checkpoints.find import find
from evaluate.features.clip import ClipEncoder
from evaluate.prompts.probe_set import load_probe_set
from evaluate.tracking.tracking_uri import _fault_of_folder
from train.cache.tensor_cache import TensorCache
from train.config.schema import BaseConfig
from train.config_checks import check_base
from train.errors import ConfigError
from train.files.paths import expanded
from train.lora.checkpoint import CheckpointError
from train.models.model_files import BaseError, locate

NOBODY = "~no-such-user-here/x.safetensors"


def test_tilde_is_expanded_to_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert expanded("~/x") == Path("/home/me/x")
    assert expanded("a/~/x") == Path("a/~/x")
    assert expanded(NOBODY) == Path(NOBODY)


def test_unknown_home_folder_ends_in_one_line() -> None:
    check_base(BaseConfig(path=NOBODY))
    with pytest.raises(BaseError, match=f"base.path: there is no file or folder {NOBODY}"):
        locate(NOBODY)
    with pytest.raises(CheckpointError, match=f"checkpoints: no file {NOBODY}"):
        find(NOBODY)
    with pytest.raises(ConfigError, match=f"probes.file: there is no file {NOBODY}"):
        load_probe_set(NOBODY)
    with pytest.raises(ConfigError, match=r"scores\.clip_model: there is no \.safetensors file"):
        ClipEncoder(f"ViT-L-14@{NOBODY}", torch.device("cpu"))
    assert "~no-such-user-here" in _fault_of_folder(f"file:{NOBODY}")
    assert TensorCache(Path(NOBODY)).folder == Path(NOBODY)
