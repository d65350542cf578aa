"""A state of a run that somebody else wrote: it is continued from, or left out with one line."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import train, trial
from train.config.schema import TrialConfig
from train.data.dataset import Dataset
from train.loop.trainer import TrialSpec
from train.models.base_model import BaseModel
from train.resume.resume_state import read_state
from train.resume.run_files import state_file

__all__ = ["trial"]  # the fixture
Make = Callable[..., TrialConfig]
Change = Callable[[dict[str, Any]], object]


def _optimizer(state: dict[str, Any], name: str, value: Any) -> None:
    state["optimizer"]["param_groups"][0][name] = value


def _moment(state: dict[str, Any], value: Any) -> None:
    next(iter(state["optimizer"]["state"].values()))["exp_avg"] = value


CHANGES: list[Change] = [
    lambda s: s.update(adapter=dict.fromkeys(s["adapter"], torch.zeros(1).expand(10**11))),
    lambda s: s.update(losses=torch.zeros(1).expand(10**12)),
    lambda s: s.update(losses=torch.zeros(3, 3)),
    lambda s: s.update(losses=torch.zeros(3).to_sparse()),
    lambda s: s.update(losses=[1.0]),
    lambda s: s.update(losses=torch.zeros(3, device="meta")),
    lambda s: s.update(random=torch.zeros(3)),
    lambda s: s.update(random="x"),
    lambda s: s.update(epoch=-1),
    lambda s: s.update(epoch=10**400),
    lambda s: s.update(epoch=2, last=None),
    lambda s: s.update(epoch=True),
    lambda s: s.update(shown="many"),
    lambda s: s.update(skipped=None),
    lambda s: s.update(last={"epoch": 1}),
    lambda s: s["last"].update(epoch="../../x"),
    lambda s: s["last"].update(path="/any/x"),
    lambda s: s.update(remedies=[["a"]]),
    lambda s: s.update(remedies=5),
    lambda s: s.update(config=["x"]),
    lambda s: s.update(order={"a": [1]}),
    lambda s: s.update(order={(32, 32): ["x"]}),
    lambda s: s.update(order=[]),
    lambda s: s.update(scheduler={}) or s["scheduler"].update(step=5),
    lambda s: s["scheduler"].update(get_last_lr=5),
    lambda s: s["scheduler"].update(last_epoch="x"),
    lambda s: s["scheduler"].update(base_lrs=["x", "y"]),
    lambda s: s["scheduler"].update(base_lrs=[]),
    lambda s: _optimizer(s, "lr", "x"),
    lambda s: _optimizer(s, "betas", [0.9]),
    lambda s: _optimizer(s, "eps", {}),
    lambda s: _moment(s, torch.zeros(7)),
    lambda s: s.update(optimizer=[]),
    lambda s: s.update(optimizer={"state": [], "param_groups": {}}),
]


@pytest.fixture(scope="module")
def written() -> dict[str, bytes]:
    """The files of a run that was left in its second epoch; kept for all tests."""
    return {}


@pytest.fixture
def left(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, written: dict[str, bytes]
) -> tuple[TrialSpec, Path]:
    """The folder of a run that was left in its second epoch."""
    member = TrialSpec(trial(), tmp_path / "run")
    if not written:
        leaves = iter([False] * 4 + [True])
        with pytest.raises(KeyboardInterrupt):
            train(base, dataset, member, should_stop=lambda: next(leaves))
        written.update({file.name: file.read_bytes() for file in member.folder.iterdir()})
    member.folder.mkdir(exist_ok=True)
    for name, content in written.items():
        (member.folder / name).write_bytes(content)
    return member, state_file(member.folder)


@pytest.mark.parametrize("change", CHANGES, ids=map(str, range(len(CHANGES))))
def test_a_part_of_another_kind(
    base: BaseModel, dataset: Dataset, left: tuple[TrialSpec, Path], change: Change,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    member, file = left
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)
    _begins_anew(base, dataset, member, file, caplog)


def _begins_anew(
    base: BaseModel,
    dataset: Dataset,
    member: TrialSpec,
    file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said in one line, memory is not filled, and the run goes on from its checkpoint."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with caplog.at_level("WARNING"):
        train(base, dataset, member)
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"{file} is damaged (")
    assert "\n" not in said
    assert "continues from lora-000001.safetensors" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000


class Called:
    """Whoever unpickles it calls this."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def _pickled(value: object) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return content.getvalue()


def _bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(30_000_000))
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        _pickled(Called(bytearray, 10**11)),
        _pickled({"config": Called(bytearray, 10**11)}),
        _pickled({"config": Called(os.mkdir, "PWNED")}),
        _pickled({"config": Called(eval, "1")}),
        _pickled({"config": Called(set, [[1]])}),
        _pickled({"config": Called(torch.zeros, (10**11,))}),
        pickle.dumps({"config": Called(os.mkdir, "PWNED")}),
        _bomb(),
        b"PK\x03\x04",
        b"",
        b"\x80\x02" + b"]" * 10**6,
    ],
    ids=range(11),
)
def test_what_is_no_state(
    base: BaseModel, dataset: Dataset, left: tuple[TrialSpec, Path], content: bytes,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    member, file = left
    monkeypatch.chdir(tmp_path)
    file.write_bytes(content)
    _begins_anew(base, dataset, member, file, caplog)
    assert not Path("PWNED").exists()


def _fifo(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 10**12)


@pytest.mark.parametrize("spoil", [_fifo, _device, _sparse, Path.mkdir])
def test_what_is_no_file(
    base: BaseModel, dataset: Dataset, left: tuple[TrialSpec, Path], spoil: Callable[[Path], None],
) -> None:  # fmt: skip
    _, file = left
    file.unlink()
    spoil(file)
    with pytest.raises(ValueError, match=r"pipe|device|larger|folder"):
        read_state(file, torch.device("cpu"), 1000)


def test_a_whole_state_is_continued(
    base: BaseModel,
    dataset: Dataset,
    left: tuple[TrialSpec, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    member, _ = left
    with caplog.at_level("WARNING"):
        train(base, dataset, member)
    assert not caplog.records
