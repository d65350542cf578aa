"""What interrupts a training: Ctrl-C, a crash, lost numbers, too little memory; how it goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import apart, end, train
from train.__main__ import TrainConfig, main
from train.base import Base, BaseError, load_base
from train.checkpoint import read_metadata
from train.config import BaseConfig, DataConfig, NetworkConfig, SchedulerConfig, TrialConfig
from train.data import Pictures
from train.interrupt import in_good_order
from train.memory import adapted, advice, ran_out, with_next_remedy
from train.trainer import Member, Trainer, TrainingError

Make = Callable[..., TrialConfig]


def after(steps: int) -> Callable[[], bool]:
    """Asks to leave after so many steps of the optimizer."""
    left = iter(range(steps - 1, -1, -1))
    return lambda: next(left) == 0


@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_from_the_middle_of_an_epoch_to_the_same_bytes(
    base: Base, pictures: Pictures, trial: Make, tmp_path: Path, steps: int
) -> None:
    """6 pictures by 1 in groups of 2: an epoch has 3 steps, and every second one is saved."""
    config = trial(
        epochs=4, batch_size=1, gradient_accumulation=2, save_every=2, caption_dropout=0.3,
        noise_offset=0.1, network=NetworkConfig(rank=2, dropout=0.2),
        scheduler=SchedulerConfig("cosine", warmup=0.2),
    )  # fmt: skip
    whole = train(base, pictures, Member(config, tmp_path / "whole"))
    member = Member(config, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(base, pictures, member, asked=after(steps))
    state = end(tmp_path / "broken")
    assert (state["epoch"], state["shown"]) == divmod(steps * 2, 6) if steps != 3 else (0, 6)
    continued = train(base, pictures, member)
    assert [e.checkpoints[0].epoch for e in continued] == [2, 4]
    for one, other in zip(whole, continued, strict=True):
        a, b = one.checkpoints[0], other.checkpoints[0]
        assert a.path.read_bytes() == b.path.read_bytes()
        assert (a.train_loss, a.lr) == (b.train_loss, b.lr)


def test_the_state_is_saved_every_so_often_within_an_epoch(
    base: Base, pictures: Pictures, trial: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the second epoch costs the steps since the last state, and changes nothing."""
    whole = train(base, pictures, Member(trial(), tmp_path / "whole"))
    member = Member(trial(state_minutes=0), tmp_path / "crashed")
    trainer, steps = Trainer(base, pictures, [member]), 0

    def crash(running: Any, step: int, go: Any = trainer.step) -> None:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise RuntimeError("the power is away")
        go(running, step)

    monkeypatch.setattr(trainer, "step", crash)
    with pytest.raises(RuntimeError, match="power"):
        list(trainer)
    assert (end(tmp_path / "crashed")["epoch"], end(tmp_path / "crashed")["shown"]) == (1, 4)
    continued = train(base, pictures, member)
    assert [e.checkpoints[0].epoch for e in continued] == [1, 2]
    name = whole[-1].checkpoints[0].path.name
    assert apart(tmp_path / "whole", tmp_path / "crashed") == 0
    assert (tmp_path / "crashed" / name).is_file()


@pytest.mark.parametrize(
    "other", [{"precision": "bf16"}, {"clip_skip": 2}, {"prediction": "v_prediction"}]
)
def test_a_run_is_not_continued_on_a_base_that_is_used_otherwise(
    base: Base, pictures: Pictures, trial: Make, tmp_path: Path, other: dict[str, Any]
) -> None:
    config = trial(epochs=1)
    train(base, pictures, Member(config, tmp_path))
    moved = replace(config, base=replace(config.base, path="/elsewhere", speed="compile"))
    assert train(base, pictures, Member(moved, tmp_path))[0].checkpoints[0].last
    with pytest.raises(TrainingError, match="holds a run of other settings"):
        train(base, pictures, Member(replace(config, base=replace(config.base, **other)), tmp_path))


def test_members_continue_at_different_places(
    exact_base: Base, pictures: Pictures, trial: Make, tmp_path: Path
) -> None:
    config = [trial(seed=seed) for seed in range(3)]
    for seed, steps in ((0, 1), (1, 5)):
        member = Member(config[seed], tmp_path / str(seed))
        with pytest.raises(KeyboardInterrupt):
            train(exact_base, pictures, member, asked=after(steps))
    members = [Member(config[seed], tmp_path / str(seed)) for seed in range(3)]
    saved = [
        [(c.member, c.epoch) for c in epoch.checkpoints]
        for epoch in train(exact_base, pictures, *members)
    ]
    assert saved == [[(1, 1)], [(0, 1), (1, 2), (2, 1)], [(0, 2), (2, 2)]]
    for seed in range(3):
        train(exact_base, pictures, Member(config[seed], tmp_path / f"alone {seed}"))
        assert apart(tmp_path / str(seed), tmp_path / f"alone {seed}") < 1e-9


def test_a_lost_loss_stops_at_once_and_the_files_stay(
    base: Base, pictures: Pictures, trial: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second step of the second epoch; no state is written of what is lost."""
    member = Member(trial(epochs=3, state_minutes=0), tmp_path)
    trainer = Trainer(base, pictures, [member])
    run, steps = trainer.joining[0], 0

    def step(running: Any, step: int, go: Any = trainer.step) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            run.adapter.flat["lora_unet"].data.fill_(torch.inf)
        go(running, step)

    monkeypatch.setattr(trainer, "step", step)
    first, broken = list(trainer)
    assert first.checkpoints[0].path.is_file()
    said = broken.failures[0]
    assert "in epoch 2, at batch 2 of 3" in said
    assert len(said.split("before it: ")[1].split(")")[0].split(", ")) == 4
    assert "learning rate that is too high (0.001)" in said
    assert steps == 5
    assert end(tmp_path)["adapter"]["flat.lora_unet"].isfinite().all()
    assert not (tmp_path / "lora.safetensors").exists()


def command(config: TrialConfig, folder: Path, **more: Any) -> TrainConfig:
    return TrainConfig(**vars(config), output=str(folder), **more)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Has memory run out at a call of `Trainer.step` as long as a condition holds."""

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


def test_out_of_memory_says_what_helps_in_order(
    base: Base, trial: Make, tmp_path: Path, short_of_memory: Any
) -> None:
    short_of_memory(5, lambda config: True)
    with pytest.raises(TrainingError) as stopped:
        main(command(trial(batch_size=2, gradient_accumulation=3), tmp_path))
    said = str(stopped.value)
    places = [said.index(word) for word in (
        "gradient_checkpointing=true", "data.resolution", "cached latents", "adamw8bit",
        "training.batch_size=1 training.gradient_accumulation=6")]  # fmt: skip
    assert places == sorted(places)
    assert (tmp_path / "lora-000001.safetensors").is_file()
    assert "is so already" in advice(trial(gradient_checkpointing=True))


@pytest.mark.parametrize("place", ["open_pipeline", "Base"])  # the machine's memory, a GPU's
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_while_the_base_is_loaded_is_one_line(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def fails(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(f"train.base.{place}", fails)
    with pytest.raises(
        BaseError, match=r"out of memory while .*base.precision=bf16.*now fp16"
    ) as end:
        load_base(BaseConfig(path=str(base_folder), device="cpu", precision="fp16"))
    assert "\n" not in str(end.value)


def test_oom_adapt_goes_on_with_less_from_the_last_state(
    base: Base, trial: Make, tmp_path: Path, short_of_memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs out in the second epoch until batches are of one picture; then continues after that."""
    calls = short_of_memory(5, lambda config: config.training.batch_size > 1)
    config = trial(oom="adapt", epochs=3, batch_size=2, state_minutes=0)
    main(command(config, tmp_path))
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
    about = read_metadata(tmp_path / "lora.safetensors")["lorasweep_config"]
    assert '"gradient_checkpointing": true' in about
    assert '"batch_size": 1' in about
    # the same command later knows what it has changed
    before = (tmp_path / "lora.safetensors").read_bytes()
    main(command(config, tmp_path))
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
def test_a_lack_of_memory_is_known_by_what_is_said_of_it(error: Exception, out: bool) -> None:
    assert ran_out(error) == out


def all_remedies(config: TrialConfig) -> tuple[str, ...]:
    """Those that memory runs out for again and again."""
    remedies: tuple[str, ...] = ()
    while (more := with_next_remedy(config, remedies)) is not None:
        remedies = more
    return remedies


def test_remedies_come_in_the_guides_order_and_end(
    trial: Make, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataConfig(resolution=512, height=768, buckets=True)
    config = trial(oom="adapt", cache="off", data=data)
    stopped = trial(cache="off", data=data)
    assert "training.oom=adapt applies 1, 2, 3, 4, 5 by itself" in advice(stopped)
    remedies = all_remedies(config)
    assert remedies == (
        "gradient_checkpointing", "resolution", "cached latents", "8-bit optimizer", "batch_size 1",
    )  # fmt: skip
    changed = adapted(config, remedies)
    assert (changed.data.resolution, changed.data.height, changed.cache) == (384, 576, "memory")
    assert (changed.training.batch_size, changed.training.gradient_accumulation) == (1, 2)
    assert "(data.resolution=384, data.height=576)" in caplog.text
    assert "oom=adapt" not in advice(changed)
    assert with_next_remedy(stopped, ()) is None


@pytest.mark.parametrize(
    "other",
    [
        {"data": DataConfig(dataset_config="data.toml", resolution=512)},
        {"data": DataConfig(buckets=True, resolution=512), "max_steps": 9},
        {"data": DataConfig(resolution=64)},
    ],
)
def test_what_cannot_be_changed_in_the_middle_is_passed_over(
    trial: Make, other: dict[str, Any]
) -> None:
    """Sizes of a file, other epochs with max_steps, or no smaller step; and no 8 bits."""
    config = trial(oom="adapt", optimizer={"_target_": "torch.optim.SGD", "lr": 0.1}, **other)
    assert all_remedies(config) == ("gradient_checkpointing", "batch_size 1")


@pytest.mark.parametrize(
    ("resolution", "smaller"), [(416, 320), (512, 384), (640, 512), (768, 576), (1024, 768)]
)
def test_pictures_become_smaller_by_a_quarter(trial: Make, resolution: int, smaller: int) -> None:
    config = trial(data=DataConfig(resolution=resolution))
    assert adapted(config, ["resolution"]).data.resolution == smaller


def test_oom_adapt_goes_on_with_smaller_pictures_in_other_buckets(
    base: Base, trial: Make, shapes: Path, tmp_path: Path, short_of_memory: Any
) -> None:
    """From the middle of the second epoch, and so again when the same command continues."""
    data = DataConfig(path=str(shapes), resolution=96, buckets=True, validation_fraction=0.0)
    config = trial(oom="adapt", epochs=2, batch_size=1, cache="off", data=data, state_minutes=0)
    calls = short_of_memory(8, lambda config: config.data.resolution > 64 or config.cache == "off")
    main(command(config, tmp_path))
    done = [(epoch, step) for epoch, step, _ in calls]
    assert done == [(0, b) for b in range(5)] + [(1, b) for b in (0, 1, *[2] * 3, *range(2, 5))]
    told = [
        read_metadata(tmp_path / name)["ss_resolution"]
        for name in ("lora-000001.safetensors", "lora.safetensors")
    ]
    assert told == ["(96, 96)", "(64, 64)"]
    assert end(tmp_path)["remedies"] == ["gradient_checkpointing", "resolution", "cached latents"]
    main(command(config, tmp_path))
    assert len(calls) == len(done)


def test_resume_off_begins_anew(
    base: Base, trial: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    main(command(trial(epochs=1), tmp_path))
    first = (tmp_path / "lora.safetensors").read_bytes()
    main(command(trial(epochs=2, seed=5), tmp_path, resume="off"))
    assert "begins anew; 2 files of the run in" in caplog.text
    assert (tmp_path / "lora.safetensors").read_bytes() != first
    assert end(tmp_path)["epoch"] == 2


def test_runs_of_two_names_share_a_folder(base: Base, trial: Make, tmp_path: Path) -> None:
    """As kohya's output_dir holds many LoRAs: what begins one anew leaves the other to go on."""
    main(command(trial(epochs=1), tmp_path, name="one"))
    main(command(trial(epochs=2), tmp_path, name="two", resume="off"))
    before = (tmp_path / "one.safetensors").stat().st_mtime_ns
    main(command(trial(epochs=1), tmp_path, name="one"))
    assert (tmp_path / "one.safetensors").stat().st_mtime_ns == before, "it was finished"
    assert (tmp_path / "two-000001.safetensors").is_file()


def test_ctrl_c_asks_once_and_forces_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 1.5, 9.0])
    monkeypatch.setattr("train.interrupt.time.monotonic", lambda: next(clock))
    with in_good_order() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        signal.raise_signal(signal.SIGTERM)  # a launcher passes it on
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_the_command_leaves_in_order(
    base_folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        f"base.path={base_folder}", f"data.path={picture_folder}", f"output={tmp_path}",
        "data.resolution=32", "data.repeats=50", "network.rank=2", "training.epochs=1",
        "base.device=cpu",
    ]  # fmt: skip
    line = [sys.executable, "-u", "-m", "train", *arguments]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        said = _until(iter(process.stderr or ()), "latents: ")
        while not (tmp_path / "lora-state.pt").exists() and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        said += process.stderr.read() if process.stderr else ""
    assert process.returncode == 130, said
    assert "finishing this step" in said
    assert "interrupted; the same command continues" in said
    assert 0 < end(tmp_path)["shown"] < 300


def _until(lines: Iterator[str], word: str) -> str:
    said = ""
    for line in lines:
        said += line
        if word in line:
            break
    return said
