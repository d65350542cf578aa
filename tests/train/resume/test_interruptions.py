"""Interruptions of a training (Ctrl-C, a crash, NaN, a full disk), and how it continues."""

from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.conftest import read_final_state, relative_distance, train, train_config
from train.cli.app import with_one_line_errors
from train.cli.signals import graceful_stop
from train.config.schema import BaseConfig, NetworkConfig, SchedulerConfig, TrialConfig
from train.data.dataset import Dataset
from train.loop.train_one import main
from train.loop.trainer import Trainer, TrainingError, TrialSpec
from train.models.base_model import BaseModel
from train.resume.run_files import state_file

Make = Callable[..., TrialConfig]


def stop_after(steps: int) -> Callable[[], bool]:
    """Requests a stop after this many optimizer steps."""
    remaining = iter(range(steps - 1, -1, -1))
    return lambda: next(remaining) == 0


@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_resuming_within_an_epoch_gives_the_same_bytes(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, steps: int
) -> None:
    """6 images, accumulated in pairs: an epoch has 3 steps, and every second one is saved."""
    config = trial(
        epochs=4, batch_size=1, gradient_accumulation=2, save_every=2, caption_dropout=0.3,
        noise_offset=0.1, network=NetworkConfig(rank=2, dropout=0.2),
        scheduler=SchedulerConfig("cosine", warmup_ratio=0.2),
    )  # fmt: skip
    full = train(base, dataset, TrialSpec(config, tmp_path / "whole"))
    spec = TrialSpec(config, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(base, dataset, spec, should_stop=stop_after(steps))
    state = read_final_state(tmp_path / "broken")
    assert (state["epoch"], state["shown"]) == divmod(steps * 2, 6) if steps != 3 else (0, 6)
    continued = train(base, dataset, spec)
    assert [e.checkpoints[0].epoch for e in continued] == [2, 4]
    for one, other in zip(full, continued, strict=True):
        a, b = one.checkpoints[0], other.checkpoints[0]
        assert a.path.read_bytes() == b.path.read_bytes()
        assert (a.train_loss, a.lr) == (b.train_loss, b.lr)


def test_state_is_saved_at_intervals_within_an_epoch(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the second epoch loses only the steps since the last state."""
    full = train(base, dataset, TrialSpec(trial(), tmp_path / "whole"))
    spec = TrialSpec(trial(resume_save_minutes=0), tmp_path / "crashed")
    trainer, steps = Trainer(base, dataset, [spec]), 0

    def crash(running: Any, step: int, go: Any = trainer.step) -> None:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise RuntimeError("the power is away")
        go(running, step)

    monkeypatch.setattr(trainer, "step", crash)
    with pytest.raises(RuntimeError, match="power"):
        list(trainer)
    assert (
        read_final_state(tmp_path / "crashed")["epoch"],
        read_final_state(tmp_path / "crashed")["shown"],
    ) == (1, 4)
    continued = train(base, dataset, spec)
    assert [e.checkpoints[0].epoch for e in continued] == [1, 2]
    name = full[-1].checkpoints[0].path.name
    assert relative_distance(tmp_path / "whole", tmp_path / "crashed") == 0
    assert (tmp_path / "crashed" / name).is_file()


@pytest.mark.parametrize(
    "other", [{"precision": "bf16"}, {"clip_skip": 2}, {"prediction_type": "v_prediction"}]
)
def test_run_is_not_continued_with_other_base_settings(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, other: dict[str, Any]
) -> None:
    config = trial(epochs=1)
    train(base, dataset, TrialSpec(config, tmp_path))
    moved = replace(config, base=replace(config.base, path="/elsewhere", compile=True))
    assert train(base, dataset, TrialSpec(moved, tmp_path))[0].checkpoints[0].last
    with pytest.raises(TrainingError, match="holds a run of other settings"):
        train(
            base, dataset, TrialSpec(replace(config, base=replace(config.base, **other)), tmp_path)
        )


def test_trials_of_a_pack_resume_at_different_positions(
    exact_base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    config = [trial(seed=seed) for seed in range(3)]
    for seed, steps in ((0, 1), (1, 5)):
        spec = TrialSpec(config[seed], tmp_path / str(seed))
        with pytest.raises(KeyboardInterrupt):
            train(exact_base, dataset, spec, should_stop=stop_after(steps))
    specs = [TrialSpec(config[seed], tmp_path / str(seed)) for seed in range(3)]
    saved = [
        [(c.index, c.epoch) for c in epoch.checkpoints]
        for epoch in train(exact_base, dataset, *specs)
    ]
    assert saved == [[(1, 1)], [(0, 1), (1, 2), (2, 1)], [(0, 2), (2, 2)]]
    for seed in range(3):
        train(exact_base, dataset, TrialSpec(config[seed], tmp_path / f"alone {seed}"))
        assert relative_distance(tmp_path / str(seed), tmp_path / f"alone {seed}") < 1e-9


def test_nan_loss_stops_at_once_and_keeps_the_files(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second step of the second epoch; the invalid state is not written."""
    spec = TrialSpec(trial(epochs=3, resume_save_minutes=0), tmp_path)
    trainer = Trainer(base, dataset, [spec])
    run, steps = trainer.pending[0], 0

    def step(running: Any, step: int, go: Any = trainer.step) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            run.adapter.flat["lora_unet"].data.fill_(torch.inf)
        go(running, step)

    monkeypatch.setattr(trainer, "step", step)
    first, broken = list(trainer)
    assert first.checkpoints[0].path.is_file()
    message = broken.failures[0]
    assert "in epoch 2, at batch 2 of 3" in message
    assert len(message.split("before it: ")[1].split(")")[0].split(", ")) == 4
    assert "learning rate that is too high (0.001)" in message
    assert steps == 5
    assert read_final_state(tmp_path)["adapter"]["flat.lora_unet"].isfinite().all()
    assert not (tmp_path / "lora.safetensors").exists()


@pytest.mark.parametrize(
    ("bias", "precision", "cause"),
    [
        (math.nan, "fp32", "the base or an image, since nothing is trained yet"),
        (1e6, "fp16", "the base or an image, since nothing is trained yet, or numbers too large "
         "for fp16 (bf16 and fp32 have room for them)"),
        (1e6, "bf16", ""),
    ],
    ids=["base", "fp16", "bf16"],
)  # fmt: skip
def test_nan_loss_from_the_start_names_the_base(
    trial: Make, base_folder: Path, tmp_path: Path, bias: float, precision: str, cause: str
) -> None:
    """With a NaN weight, and with one that overflows only fp16."""
    path = shutil.copytree(base_folder, tmp_path / "base")
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"].fill_(bias)
    save_file(weights, file)
    base = BaseConfig(path=str(path), device="cpu", precision=precision)
    config = train_config(trial(base=base, epochs=1, gradient_accumulation=2), tmp_path / "lora")
    if cause:
        message = "in epoch 1, at batch 1 of 3 (before it: nothing); the likely cause is "
        with pytest.raises(TrainingError, match=re.escape(f"{message}{cause}")):
            main(config)
    else:
        main(config)
    assert (tmp_path / "lora" / "lora.safetensors").exists() != bool(cause)


def test_full_disk_ends_in_one_line_and_loses_nothing(
    trial: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills up after the first checkpoint; with free space the same command continues."""
    config, folder = trial(epochs=3), tmp_path / "full"
    main(train_config(config, tmp_path / "roomy"))

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1000 if state_file(folder).exists() else 10**9)

    with monkeypatch.context() as patch:
        patch.setattr("train.files.atomic_write.shutil.disk_usage", usage)
        with pytest.raises(SystemExit) as end_of_command:
            with_one_line_errors(lambda: main(train_config(config, folder)))
    message = str(end_of_command.value.code)
    file = folder / "lora-000002.safetensors"
    assert message.startswith(f"error: {file} cannot be written: it takes 0.")
    assert message.endswith(" MB, 0.0 MB are free")
    assert "\n" not in message
    assert {file.name for file in folder.iterdir()} == {
        "lora-000001.safetensors",
        state_file(folder).name,
    }
    main(train_config(config, folder))
    full = sorted((tmp_path / "roomy").glob("*.safetensors"))
    assert [(folder / file.name).read_bytes() == file.read_bytes() for file in full] == [True] * 3


def test_resume_off_starts_over(
    base: BaseModel, trial: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    main(train_config(trial(epochs=1), tmp_path))
    first = (tmp_path / "lora.safetensors").read_bytes()
    main(train_config(trial(epochs=2, seed=5), tmp_path, resume="off"))
    assert "starts over; 2 files of the run in" in caplog.text
    assert (tmp_path / "lora.safetensors").read_bytes() != first
    assert read_final_state(tmp_path)["epoch"] == 2


def test_runs_with_different_names_share_a_folder(
    base: BaseModel, trial: Make, tmp_path: Path
) -> None:
    """Like kohya's output_dir with many LoRAs: restarting one does not affect the other."""
    main(train_config(trial(epochs=1), tmp_path, name="one"))
    main(train_config(trial(epochs=2), tmp_path, name="two", resume="off"))
    before = (tmp_path / "one.safetensors").stat().st_mtime_ns
    main(train_config(trial(epochs=1), tmp_path, name="one"))
    assert (tmp_path / "one.safetensors").stat().st_mtime_ns == before, "it was finished"
    assert (tmp_path / "two-000001.safetensors").is_file()


def test_second_ctrl_c_forces_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 1.5, 9.0])
    monkeypatch.setattr("train.cli.signals.time.monotonic", lambda: next(clock))
    with graceful_stop() as requested:
        assert not requested()
        signal.raise_signal(signal.SIGINT)
        assert requested()
        signal.raise_signal(signal.SIGTERM)  # a launcher passes it on
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_stops_the_command_gracefully(
    base_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        f"base.path={base_folder}", f"data.path={image_folder}",
        "data.trigger=sks puppet", f"output={tmp_path}",
        "data.resolution=32", "data.repeats=50", "network.rank=2", "training.epochs=1",
        "base.device=cpu",
    ]  # fmt: skip
    line = [sys.executable, "-u", "-m", "train", *arguments]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        message = _until(iter(process.stderr or ()), "latents: ")
        while not (tmp_path / "lora-state.pt").exists() and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        message += process.stderr.read() if process.stderr else ""
    assert process.returncode == 130, message
    assert "finishing this step" in message
    assert "interrupted; run the same command again to continue" in message
    assert 0 < read_final_state(tmp_path)["shown"] < 300


def _until(lines: Iterator[str], word: str) -> str:
    message = ""
    for line in lines:
        message += line
        if word in line:
            break
    return message
