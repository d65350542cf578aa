"""`python -m train` for a user: it trains, continues, and rejects settings in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import LIMIT, Command
from train.cli.compose import settings
from train.cli.preflight import preflight
from train.config.schema import BaseConfig, TrainConfig
from train.config_checks import check_train
from train.loop.train_one import main
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseError, BaseModel


def command(*arguments: str) -> tuple[int, str]:
    return Command("train", *arguments).finish(LIMIT)


@pytest.fixture
def small(base_folder: Path, image_folder: Path, tmp_path: Path) -> list[str]:
    return [
        f"base.path={base_folder}", f"data.path={image_folder}",
        "data.trigger=sks puppet", f"output={tmp_path / 'out'}",
        "data.resolution=32", "data.repeats=1", "network.rank=2", "training.epochs=2",
        "training.save_every=1", "base.device=cpu",
    ]  # fmt: skip


def test_trains_and_continues(small: list[str], tmp_path: Path) -> None:
    code, message = command(*small)
    assert code == 0, message
    in_order = (
        "6 training images x 1 repeat, 2 different captions; 1 held out for validation",
        "bucket 40x24: 6 images, 6 per epoch",
        "effective batch 1 (batch_size 1); 6 steps per epoch, 2 epochs, 12 steps",
        "warning: only 6 images",
        "warning: an image is seen only 2 times",
        "epoch 1/2",
        "epoch 2/2",
    )
    places = [message.find(words) for words in in_order]
    assert places[0] > -1, message
    assert places == sorted(places), message
    assert (tmp_path / "out" / "lora.safetensors").is_file()
    code, message = command(*small, f"output={tmp_path / 'named'}", "name=sks puppet")
    assert code == 0, message
    files = {"sks puppet-000001.safetensors", "sks puppet.safetensors"}
    assert {file.name for file in (tmp_path / "named").glob("*.safetensors")} == files
    metadata = read_metadata(tmp_path / "named" / "sks puppet.safetensors")
    assert metadata["ss_output_name"] == metadata["modelspec.title"] == "sks puppet"
    code, message = command(*small, "network.rank=4")
    assert code == 1
    assert "holds a run of other settings" in message


def test_schedule_is_logged_before_the_base_is_loaded(
    small: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(config: BaseConfig) -> BaseModel:
        raise BaseError("no base")

    caplog.set_level("INFO")
    monkeypatch.setattr("train.loop.train_one.load_base", fails)
    with pytest.raises(BaseError):
        main(settings("train", TrainConfig, small))
    steps = caplog.text.index("6 steps per epoch, 2 epochs, 12 steps; a checkpoint every epoch")
    assert caplog.text.index("6 training images") < steps < caplog.text.index("warning: ")


@pytest.mark.parametrize(
    ("wrong", "output"),
    [
        (
            "training.epcohs=3",
            "training.epcohs: there is no such setting; did you mean training.ep",
        ),
        (
            "optimizer=adamw8",
            "'adamw8' is not one of adafactor, adamw, adamw8bit, dadaptation, lion",
        ),
        ("network.rank=much", "network.rank: 'much' must be a whole number from 1"),
        ("network.conv_alpha=2", "network.conv_alpha: needs network.conv_rank > 0"),
        ("network.rank=4,8", "network.rank: several values need -m"),
        ("base.path=model.ckpt", "is a pickle"),
        ("name=a/b", "name: 'a/b' must be a file name"),
        (
            "preset=charakter",
            "preset: 'charakter' is not one of character, concept, none, style; did",
        ),
    ],
)
def test_wrong_settings_end_in_one_line(small: list[str], wrong: str, output: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        preflight("train", [*small, wrong], TrainConfig, check_train)
    message = str(exit_info.value.code)
    assert output in message
    assert len(message.splitlines()) == 1


def test_wrong_command_prints_only_the_error(small: list[str]) -> None:
    line = [sys.executable, "-m", "train", *small, "training.epcohs=3"]
    process = subprocess.run(line, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith("error: training.epcohs")
    assert len(process.stderr.strip().splitlines()) == 1
