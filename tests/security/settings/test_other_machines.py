"""A network path from a file is refused before the file system is asked for it.

On Windows, a mere check whether `\\\\host\\share` exists logs in to the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluate.tracking.artifacts import _local
from evaluate.tracking.mlflow_store import MlflowStore
from evaluate.tracking.relocation import _was_moved
from evaluate.tracking.store_address import Address
from sweeper.reproduction.received_settings import _accept_path, _is_base
from train.config.schema import DataConfig
from train.data.dataset import load_dataset
from train.data.images.image import DataError
from train.errors import ConfigError
from train.files import permissions
from train.kohya.command_line import expand

SHARES = [r"\\evil\share", "//evil/share", r"\/evil/share", r"/\evil/share", "///evil/share",
          r"\\?\UNC\evil\share", r"\??\UNC\evil\share", "//./pipe/evil"]  # fmt: skip
PATH_FUNCTIONS = ("stat", "lstat", "readlink", "open", "scandir", "listdir", "access")


@pytest.fixture(autouse=True)
def no_access(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Fails a test that accesses a path containing "evil"."""
    monkeypatch.chdir(tmp_path)
    accesses: list[str] = []

    def recording(name: str) -> Any:
        original = getattr(os, name)

        def record(path: Any = ".", *others: Any, **options: Any) -> Any:
            if "evil" in os.fsdecode(path) if isinstance(path, str | bytes | Path) else False:
                accesses.append(f"{name} {path}")
            return original(path, *others, **options)

        return record

    for name in PATH_FUNCTIONS:
        monkeypatch.setattr(os, name, recording(name))
    yield
    assert not accesses


@pytest.mark.parametrize("share", SHARES, ids=range(len(SHARES)))
@pytest.mark.parametrize("key", ["train_data_dir", "reg_data_dir", "dataset_config", "output_dir",
                                 "pretrained_model_name_or_path"])  # fmt: skip
def test_share_in_a_kohya_config_is_refused(share: str, key: str) -> None:
    Path("config.toml").write_text(f"{key} = {share!r}".replace("\\\\", "\\"))
    with pytest.raises(ConfigError, match="is outside of the folders"):
        expand(["kohya=config.toml"])


@pytest.mark.parametrize("share", SHARES, ids=range(len(SHARES)))
def test_share_in_a_dataset_config_is_refused(share: str) -> None:
    Path("data.toml").write_text(
        f"[[datasets]]\nresolution = 32\n[[datasets.subsets]]\nimage_dir = '{share}'"
    )
    with pytest.raises(DataError, match="is outside of the folders"):
        load_dataset(DataConfig(dataset_config="data.toml"))


@pytest.mark.parametrize("share", SHARES, ids=range(len(SHARES)))
def test_share_in_a_record_is_refused(share: str) -> None:
    assert not _is_base(share, "0" * 64)
    for key in ("data.path", "probes.attributes"):
        with pytest.raises(ConfigError, match="may not choose"):
            _accept_path(key, share, "puppets")


@pytest.mark.parametrize("share", SHARES, ids=range(len(SHARES)))
def test_share_in_a_store_is_ignored(tmp_path: Path, share: str) -> None:
    store = MlflowStore(tmp_path, "x")
    assert _local(store, share, "scorecards.json") is None
    assert not Address(tmp_path).is_at(f"sqlite:///{share}/mlflow.db")
    assert not _was_moved(f"file://{share.replace(chr(92), '/')}/artifacts", "mlflow.db")
    assert not store._is_own(f"file:////{share.strip('/')}")


def test_share_that_the_user_has_named_is_allowed() -> None:
    assert permissions.is_foreign("//mine/pictures/10_dog")
    permissions.allow(["//mine/pictures"])
    assert not permissions.is_foreign("//mine/pictures/10_dog")
    assert permissions.is_foreign("//mine/pictures/../../evil")
    assert permissions.is_foreign("//mine/picturesque")
