"""Untrusted resume states: valid ones are resumed, invalid ones are skipped with one warning."""

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


def _set_option(state: dict[str, Any], name: str, value: Any) -> None:
    state["optimizer"]["param_groups"][0][name] = value


def _set_moment(state: dict[str, Any], value: Any) -> None:
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
    lambda s: _set_option(s, "lr", "x"),
    lambda s: _set_option(s, "betas", [0.9]),
    lambda s: _set_option(s, "eps", {}),
    lambda s: _set_moment(s, torch.zeros(7)),
    lambda s: s.update(optimizer=[]),
    lambda s: s.update(optimizer={"state": [], "param_groups": {}}),
]


@pytest.fixture(scope="module")
def run_files() -> dict[str, bytes]:
    """Caches the files of the interrupted run for all tests."""
    return {}


@pytest.fixture
def interrupted_run(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, run_files: dict[str, bytes]
) -> tuple[TrialSpec, Path]:
    """Returns a run that was interrupted in its second epoch, and its state file."""
    spec = TrialSpec(trial(), tmp_path / "run")
    if not run_files:
        stop_answers = iter([False] * 4 + [True])
        with pytest.raises(KeyboardInterrupt):
            train(base, dataset, spec, should_stop=lambda: next(stop_answers))
        run_files.update({file.name: file.read_bytes() for file in spec.folder.iterdir()})
    spec.folder.mkdir(exist_ok=True)
    for name, content in run_files.items():
        (spec.folder / name).write_bytes(content)
    return spec, state_file(spec.folder)


@pytest.mark.parametrize("change", CHANGES, ids=map(str, range(len(CHANGES))))
def test_invalid_part_of_a_state_is_skipped(
    base: BaseModel, dataset: Dataset, interrupted_run: tuple[TrialSpec, Path], change: Change,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    spec, file = interrupted_run
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)
    _check_restart(base, dataset, spec, file, caplog)


def _check_restart(
    base: BaseModel,
    dataset: Dataset,
    spec: TrialSpec,
    file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Checks for one warning, bounded memory, and a restart from the last checkpoint."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with caplog.at_level("WARNING"):
        train(base, dataset, spec)
    (warning,) = [record.message for record in caplog.records]
    assert warning.startswith(f"{file} is damaged (")
    assert "\n" not in warning
    assert "continues from lora-000001.safetensors" in warning
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000


class CallOnUnpickle:
    """Calls a function when it is unpickled."""

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
        _pickled(CallOnUnpickle(bytearray, 10**11)),
        _pickled({"config": CallOnUnpickle(bytearray, 10**11)}),
        _pickled({"config": CallOnUnpickle(os.mkdir, "PWNED")}),
        _pickled({"config": CallOnUnpickle(eval, "1")}),
        _pickled({"config": CallOnUnpickle(set, [[1]])}),
        _pickled({"config": CallOnUnpickle(torch.zeros, (10**11,))}),
        pickle.dumps({"config": CallOnUnpickle(os.mkdir, "PWNED")}),
        _bomb(),
        b"PK\x03\x04",
        b"",
        b"\x80\x02" + b"]" * 10**6,
    ],
    ids=range(11),
)
def test_file_that_is_no_state_is_skipped(
    base: BaseModel, dataset: Dataset, interrupted_run: tuple[TrialSpec, Path], content: bytes,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    spec, file = interrupted_run
    monkeypatch.chdir(tmp_path)
    file.write_bytes(content)
    _check_restart(base, dataset, spec, file, caplog)
    assert not Path("PWNED").exists()


def _fifo(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 10**12)


@pytest.mark.parametrize("corrupt", [_fifo, _device, _sparse, Path.mkdir])
def test_special_file_is_refused(
    base: BaseModel,
    dataset: Dataset,
    interrupted_run: tuple[TrialSpec, Path],
    corrupt: Callable[[Path], None],
) -> None:
    _, file = interrupted_run
    file.unlink()
    corrupt(file)
    with pytest.raises(ValueError, match=r"pipe|device|larger|folder"):
        read_state(file, torch.device("cpu"), 1000)


def test_valid_state_is_resumed(
    base: BaseModel,
    dataset: Dataset,
    interrupted_run: tuple[TrialSpec, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec, _ = interrupted_run
    with caplog.at_level("WARNING"):
        train(base, dataset, spec)
    assert not caplog.records
