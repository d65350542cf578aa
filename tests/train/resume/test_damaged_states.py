"""A run with a damaged state continues from its last checkpoint; a state runs no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.conftest import read_final_state, train, train_config
from train.cli.app import with_one_line_errors
from train.config.schema import NetworkConfig, SchedulerConfig, TrialConfig
from train.data.dataset import Dataset
from train.loop.train_one import main
from train.loop.trainer import TrainingError, TrialSpec
from train.models.base_model import BaseModel
from train.resume.run_files import state_file

Make = Callable[..., TrialConfig]
Damage = Callable[[Path], object]


class Hostile:
    """Creates a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def cut_in_half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 400):
        content[place] ^= 0xFF
    file.write_bytes(bytes(content))


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def hostile(file: Path) -> None:
    file.write_bytes(pickle.dumps(Hostile(file.with_name("hacked"))))


def hostile_in_torchs_format(file: Path) -> None:
    torch.save({"config": Hostile(file.with_name("hacked"))}, file)


def of_safetensors(file: Path) -> None:
    save_file({"adapter": torch.zeros(3)}, file)


def edited(**news: Any) -> Damage:
    """A complete file with changed content."""

    def change(file: Path) -> None:
        torch.save({**torch.load(file, weights_only=True), **news}, file)

    change.__name__ = f"other {', '.join(news)}"
    return change


def without_key(key: str) -> Damage:
    def change(file: Path) -> None:
        state = torch.load(file, weights_only=True)
        del state[key]
        torch.save(state, file)

    change.__name__ = f"without {key}"
    return change


DAMAGES: list[Damage] = [
    truncated,
    flipped,
    zeroed,
    hostile,
    hostile_in_torchs_format,
    of_safetensors,
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(b"no state at all\n" * 99),
    lambda file: torch.save([1, 2], file),
    lambda file: torch.save({"model": torch.zeros(2)}, file),
    without_key("random"),
    without_key("config"),
    edited(remedies=["a remedy of another version"]),
    edited(adapter={"flat.lora_unet": torch.zeros(7)}),
    edited(optimizer={"state": {}, "param_groups": []}),
    edited(epoch="two"),
    edited(losses=None),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__.replace("<lambda>", "other"))
def test_damaged_state_continues_from_the_last_checkpoint(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, damage: Damage,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config = trial(epochs=3, scheduler=SchedulerConfig("cosine"))
    full = train(base, dataset, TrialSpec(config, tmp_path / "whole"))
    folder, leaves = tmp_path / "broken", iter([False] * 7 + [True])
    with pytest.raises(KeyboardInterrupt):  # in the third epoch, of three steps each
        train(base, dataset, TrialSpec(config, folder), should_stop=lambda: next(leaves))
    damage(state_file(folder))
    with caplog.at_level("WARNING"):
        repeated = train(base, dataset, TrialSpec(config, folder))
    (message,) = [record.message for record in caplog.records]
    assert message.startswith(f"{state_file(folder)} is damaged (")
    assert message.endswith(
        "continues from lora-000002.safetensors (epoch 2), with a new optimizer state"
    )
    assert "\n" not in message
    assert not (folder / "hacked").exists(), "no file runs code"
    assert [epoch.checkpoints[0].epoch for epoch in repeated] == [2, 3]
    assert repeated[-1].checkpoints[0].lr == full[-1].checkpoints[0].lr, "the schedule goes on"
    assert repeated[0].checkpoints[0].pictures == 12
    before, after = (load_file(folder / f"lora{n}.safetensors") for n in ("-000002", ""))
    moved = max(float((before[key] - after[key]).abs().max()) for key in before)
    assert 0 < moved < 0.05, "it is trained on, and not anew"
    assert read_final_state(folder)["epoch"] == 3, "its state is whole again"
    assert train(base, dataset, TrialSpec(config, folder))[0].checkpoints[0].last


def test_damaged_state_without_a_checkpoint_starts_over(
    base: BaseModel,
    dataset: Dataset,
    trial: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    state_file(folder).write_bytes(b"garbage")
    train(base, dataset, TrialSpec(trial(), tmp_path / "whole"))
    train(base, dataset, TrialSpec(trial(), folder))
    assert "; the run starts over" in caplog.text
    files = [(place / "lora.safetensors").read_bytes() for place in (folder, tmp_path / "whole")]
    assert files[0] == files[1]


def test_damaged_checkpoint_is_skipped(
    base: BaseModel,
    dataset: Dataset,
    trial: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    train(base, dataset, TrialSpec(trial(epochs=3), tmp_path))
    cut_in_half(state_file(tmp_path))
    cut_in_half(tmp_path / "lora.safetensors")
    repeated = train(base, dataset, TrialSpec(trial(epochs=3), tmp_path))
    assert "lora.safetensors: not a readable safetensors file" in caplog.text
    assert [epoch.checkpoints[0].epoch for epoch in repeated] == [2, 3]


def test_checkpoints_of_another_run_are_not_overwritten(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    train(base, dataset, TrialSpec(trial(), tmp_path))
    state_file(tmp_path).write_bytes(b"")
    other = replace(trial(), network=NetworkConfig(rank=2))
    with pytest.raises(TrainingError, match="holds a run of other settings; choose another"):
        train(base, dataset, TrialSpec(other, tmp_path))


def test_command_reports_a_damaged_state_and_succeeds(
    trial: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    main(train_config(trial(), tmp_path))
    state_file(tmp_path).write_bytes(b"PK\x03\x04 torn")
    with_one_line_errors(lambda: main(train_config(trial(), tmp_path)))
    assert "is damaged" in caplog.text
    assert "continues from lora.safetensors (epoch 2)" in caplog.text
