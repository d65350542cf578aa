"""Several processes that train one LoRA together give the same result as one process."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.conftest import read_final_state
from train.cli.compose import settings
from train.config.schema import TrainConfig
from train.loop.train_one import main
from train.lora.batched import Dropout
from train.system.distributed import ProcessGroup


def free_port() -> int:
    with socket.socket() as result:
        result.bind(("127.0.0.1", 0))
        return int(result.getsockname()[1])


def launch(count: int, *arguments: str) -> str:
    """The output of `accelerate launch -m train` with `count` processes on the CPU."""
    launcher = [
        "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={count}",
        f"--main_process_port={free_port()}", "-m", "train",
    ]  # fmt: skip
    line = [sys.executable, *launcher, *arguments]
    process = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stderr


def test_two_processes_equal_one_with_the_combined_batch(
    base_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    """5 images in batches of 4: the last batch has one image, and the second process none of it."""
    common = [
        f"base.path={base_folder}", f"data.path={image_folder}",
        "data.trigger=sks puppet", "data.resolution=32",
        "network.rank=2", "network.dropout=0.2", "network.text_encoder=true", "training.epochs=2",
        "training.save_every=1", "base.device=cpu", "optimizer.lr=1e-3", "base.precision=fp32",
        "training.gradient_accumulation=2", "training.min_snr_gamma=5",
        "data.validation_fraction=0.3", "optimizer=adafactor",
    ]  # fmt: skip
    single = [*common, f"output={tmp_path / '1'}", "training.batch_size=4"]
    main(settings("train", TrainConfig, single))
    message = launch(2, *common, f"output={tmp_path / '2'}", "training.batch_size=2")
    assert message.count("effective batch 8 (batch_size 2 x 2 accumulated x 2 processes)") == 1
    assert message.count("epoch 2/2") == 1
    one, two = (read_final_state(tmp_path / str(count)) for count in (1, 2))
    assert torch.equal(one["random"], two["random"])
    assert one["last"]["train_loss"] == pytest.approx(two["last"]["train_loss"], rel=1e-5)
    for name, weights in one["adapter"].items():
        assert (weights - two["adapter"][name]).norm() <= 1e-4 * weights.norm()
    assert one["config"] == two["config"], "either continues the other's run"


def test_dropout_of_a_shard_equals_that_of_the_full_batch() -> None:
    full = Dropout(0.5, 3).mask("key", torch.empty(5 * 6, 4))
    parts = []
    for rank in range(3):
        rows = ProcessGroup(rank, 3).slice(5)
        part = Dropout(0.5, 3, (rows, 5))
        parts.append(part.mask("key", torch.empty((rows.stop - rows.start) * 6, 4)))
    assert torch.equal(torch.cat(parts), full)
