"""A home folder that there is not is a path like any other: it is not found, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluate.files import find
from evaluate.probing.probes import load_probe_set
from evaluate.reading.encoder import Encoder
from evaluate.tracking_uri import _a_folder
from train.base_files import BaseError, locate
from train.checkpoint import CheckpointError
from train.checks import check_base
from train.config import BaseConfig, ConfigError
from train.paths import expanded
from train.store import Store

NOBODY = "~no-such-user-here/x.safetensors"


def test_a_home_is_put_in_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert expanded("~/x") == Path("/home/me/x")
    assert expanded("a/~/x") == Path("a/~/x")
    assert expanded(NOBODY) == Path(NOBODY)


def test_a_home_that_there_is_not_is_named_in_one_line() -> None:
    check_base(BaseConfig(path=NOBODY))
    with pytest.raises(BaseError, match=f"base.path: there is no file or folder {NOBODY}"):
        locate(NOBODY)
    with pytest.raises(CheckpointError, match=f"checkpoints: no file {NOBODY}"):
        find(NOBODY)
    with pytest.raises(ConfigError, match=f"probes.set: there is no file {NOBODY}"):
        load_probe_set(NOBODY)
    with pytest.raises(ConfigError, match=r"scores\.encoder: there is no \.safetensors file"):
        Encoder(f"ViT-L-14@{NOBODY}", torch.device("cpu"))
    assert "~no-such-user-here" in _a_folder(f"file:{NOBODY}")
    assert Store(Path(NOBODY)).folder == Path(NOBODY)
