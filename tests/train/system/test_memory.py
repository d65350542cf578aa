"""Running out of memory: the advice, and how a training continues with less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import read_final_state, train_config
from train.config.schema import BaseConfig, DataConfig, TrialConfig
from train.loop.train_one import main
from train.loop.trainer import Trainer, TrainingError
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseError, BaseModel, load_base
from train.system.oom import advice, apply_fallbacks, is_oom, with_next_fallback

Make = Callable[..., TrialConfig]


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Makes a call of `Trainer.step` run out of memory while a condition holds."""

    def made(at: int, too_much: Callable[[TrialConfig], bool]) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []
        go = Trainer.step

        def step(self: Trainer, running: Any, step: int) -> None:
            config = running[0].config
            calls.append((running[0].epoch, step, config.training.batch_size))
            if len(calls) >= at and too_much(config):
                raise torch.OutOfMemoryError("CUDA out of memory")
            go(self, running, step)

        monkeypatch.setattr(Trainer, "step", step)
        return calls

    return made


def test_out_of_memory_lists_remedies_in_order(
    base: BaseModel, trial: Make, tmp_path: Path, short_of_memory: Any
) -> None:
    short_of_memory(5, lambda config: True)
    with pytest.raises(TrainingError) as stopped:
        main(train_config(trial(batch_size=2, gradient_accumulation=3), tmp_path))
    message = str(stopped.value)
    places = [message.index(word) for word in (
        "gradient_checkpointing=true", "data.resolution", "cached latents", "adamw8bit",
        "training.batch_size=1 training.gradient_accumulation=6")]  # fmt: skip
    assert places == sorted(places)
    assert (tmp_path / "lora-000001.safetensors").is_file()
    assert "already set" in advice(trial(gradient_checkpointing=True))


@pytest.mark.parametrize("place", ["open_pipeline", "BaseModel"])  # the machine's memory, a GPU's
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_while_loading_the_base_ends_in_one_line(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def fails(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(f"train.models.base_model.{place}", fails)
    with pytest.raises(
        BaseError, match=r"out of memory while .*base.precision=bf16.*now fp16"
    ) as exit_info:
        load_base(BaseConfig(path=str(base_folder), device="cpu", precision="fp16"))
    assert "\n" not in str(exit_info.value)


def test_oom_degrade_continues_from_the_last_state(
    base: BaseModel,
    trial: Make,
    tmp_path: Path,
    short_of_memory: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Runs out in the second epoch until the batch size is 1; then it continues."""
    calls = short_of_memory(5, lambda config: config.training.batch_size > 1)
    config = trial(on_oom="degrade", epochs=3, batch_size=2, resume_save_minutes=0)
    main(train_config(config, tmp_path))
    assert calls[:7] == [
        (0, 0, 2),
        (0, 1, 2),
        (0, 2, 2),
        (1, 0, 2),
        (1, 1, 2),
        (1, 1, 2),
        (1, 1, 2),
    ]
    assert calls[7:] == [(1, b, 1) for b in range(2, 6)] + [(2, b, 1) for b in range(6)]
    for word in ("gradient_checkpointing=True", "AdamW8bit", "gradient_accumulation=2"):
        assert word in caplog.text
    metadata = read_metadata(tmp_path / "lora.safetensors")["lorasweep_config"]
    assert '"gradient_checkpointing": true' in metadata
    assert '"batch_size": 1' in metadata
    # the same command later knows what it has changed
    before = (tmp_path / "lora.safetensors").read_bytes()
    main(train_config(config, tmp_path))
    assert (tmp_path / "lora.safetensors").read_bytes() == before
    assert len(calls) == 17


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
                      "allocate memory: you tried to allocate 8 bytes"), True),
        (TrainingError("outputs/allocated holds a run of other settings"), False),
        (OSError("cannot be allocated"), False),
    ],
)  # fmt: skip
def test_is_oom_recognizes_messages(error: Exception, out: bool) -> None:
    assert is_oom(error) == out


def all_fallbacks(config: TrialConfig) -> tuple[str, ...]:
    """The fallbacks if memory runs out again and again."""
    fallbacks: tuple[str, ...] = ()
    while (more := with_next_fallback(config, fallbacks)) is not None:
        fallbacks = more
    return fallbacks


def test_fallbacks_are_applied_in_order_until_exhausted(
    trial: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataConfig(resolution=512, height=768, buckets=True)
    config = trial(on_oom="degrade", cache="off", data=data)
    stopped = trial(cache="off", data=data)
    assert "training.on_oom=degrade applies 1, 2, 3, 4, 5 automatically" in advice(stopped)
    fallbacks = all_fallbacks(config)
    assert fallbacks == (
        "gradient_checkpointing", "resolution", "cached latents", "8-bit optimizer", "batch_size 1",
    )  # fmt: skip
    changed = apply_fallbacks(config, fallbacks)
    assert (changed.data.resolution, changed.data.height, changed.cache) == (384, 576, "memory")
    assert (changed.training.batch_size, changed.training.gradient_accumulation) == (1, 2)
    assert "(data.resolution=384, data.height=576)" in caplog.text
    assert "oom=adapt" not in advice(changed)
    assert with_next_fallback(stopped, ()) is None


@pytest.mark.parametrize(
    "other",
    [
        {"data": DataConfig(dataset_config="data.toml", resolution=512)},
        {"data": DataConfig(buckets=True, resolution=512), "max_steps": 9},
        {"data": DataConfig(resolution=64)},
    ],
)
def test_fallbacks_that_would_change_a_started_run_are_skipped(
    trial: Make, other: dict[str, Any]
) -> None:
    """With a dataset_config, max_steps, no smaller step, or no 8-bit version of the optimizer."""
    config = trial(on_oom="degrade", optimizer={"_target_": "torch.optim.SGD", "lr": 0.1}, **other)
    assert all_fallbacks(config) == ("gradient_checkpointing", "batch_size 1")


@pytest.mark.parametrize(
    ("resolution", "smaller"), [(416, 320), (512, 384), (640, 512), (768, 576), (1024, 768)]
)
def test_resolution_fallback_is_three_quarters(trial: Make, resolution: int, smaller: int) -> None:
    config = trial(data=DataConfig(resolution=resolution))
    assert apply_fallbacks(config, ["resolution"]).data.resolution == smaller


def test_oom_degrade_continues_with_smaller_images_in_other_buckets(
    base: BaseModel, trial: Make, shapes: Path, tmp_path: Path, short_of_memory: Any
) -> None:
    """From the middle of the second epoch, and again when the same command continues."""
    data = DataConfig(path=str(shapes), resolution=96, buckets=True, validation_fraction=0.0)
    config = trial(
        on_oom="degrade", epochs=2, batch_size=1, cache="off", data=data, resume_save_minutes=0
    )
    calls = short_of_memory(8, lambda config: config.data.resolution > 64 or config.cache == "off")
    main(train_config(config, tmp_path))
    process = [(epoch, step) for epoch, step, _ in calls]
    assert process == [(0, b) for b in range(5)] + [(1, b) for b in (0, 1, *[2] * 3, *range(2, 5))]
    reported = [
        read_metadata(tmp_path / name)["ss_resolution"]
        for name in ("lora-000001.safetensors", "lora.safetensors")
    ]
    assert reported == ["(96, 96)", "(64, 64)"]
    assert read_final_state(tmp_path)["remedies"] == [
        "gradient_checkpointing",
        "resolution",
        "cached latents",
    ]
    main(train_config(config, tmp_path))
    assert len(calls) == len(process)
