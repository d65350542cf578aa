"""Packs of a sweep: which trials share one, which follow, and what happens if one fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from evaluate.images.probe_images import images_file
from sweeper.execution.disk import MARGIN, describe_space, low_space_reason, trial_size
from sweeper.execution.trial import Trial
from sweeper.stop_request import graceful_stop
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    load_record,
)
from tests.sweeper.packs import Make, Run
from train.config.schema import TrainingConfig, trial_of
from train.data.dataset import Dataset
from train.loop.pack_size import operations, pack_size
from train.loop.trainer import Trainer, TrialSpec
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseModel


def test_free_places_are_filled_at_once_and_other_kinds_wait(make: Make, run: Run) -> None:
    trials = [make(0, epochs=1), make(1, epochs=3), make(2, epochs=1, batch_size=2), make(3)]
    first, long, other_kind, late = (trial.record for trial in trials)
    states: list[list[str]] = []

    def take_trials() -> Iterator[Trial]:
        for trial in trials:
            states.append([record.state for record in (first, long)])
            yield trial

    scored_together: list[set[str]] = []
    run(
        take_trials(),
        2,
        lambda checkpoints: scored_together.append({path.parent.name for path in checkpoints}),
    )
    assert states == [[RUNNING] * 2, [RUNNING] * 2, [COMPLETE, RUNNING], [COMPLETE, RUNNING]]
    assert scored_together == [{"0000", "0001"}, {"0001", "0003"}, {"0001", "0003"}, {"0002"}]
    assert [len(record.epochs) for record in (first, long, other_kind, late)] == [1, 3, 1, 2]
    assert {record.tags["pack"] for record in (first, long, other_kind, late)} == {"2"}


def test_only_the_trial_that_breaks_a_pack_fails(make: Make, run: Run) -> None:
    trials = [make(number) for number in range(3)]

    def scoring(checkpoints: dict[Path, int]) -> None:
        if any(path.parent.name == "0001" and epoch == 2 for path, epoch in checkpoints.items()):
            raise RuntimeError("the encoder has had enough\nof this")

    run(trials, 3, scoring)
    assert [trial.record.state for trial in trials] == [COMPLETE, FAILED, COMPLETE]
    assert [len(trial.record.epochs) for trial in trials] == [2, 1, 2]
    assert trials[1].record.reason == "the encoder has had enough"
    assert "of this" in (trials[1].record.folder / "error.txt").read_text()


def test_a_pack_that_is_too_large_is_halved(make: Make, run: Run) -> None:
    trials, sizes = [make(number) for number in range(4)], []

    def scoring(checkpoints: dict[Path, int]) -> None:
        sizes.append(len(checkpoints))
        if len(checkpoints) > 2:
            raise torch.OutOfMemoryError("out of memory")

    run(trials, 4, scoring)
    assert [trial.record.state for trial in trials] == [COMPLETE] * 4
    assert sizes == [4, 2, 2, 2, 2]


def test_a_single_trial_falls_back_to_less_memory(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run out of memory, even alone: one may use fallbacks, the other lists them."""
    original_step = Trainer.step

    def step(self: Trainer, running: Any, batch: int) -> None:
        if running[0].epoch == 1 and not running[0].config.training.gradient_checkpointing:
            raise torch.OutOfMemoryError("out of memory")
        original_step(self, running, batch)

    monkeypatch.setattr(Trainer, "step", step)
    trials = [make(0, on_oom="degrade"), make(1)]
    run(trials, 2)
    adapted, stopped = (trial.record for trial in trials)
    assert [adapted.state, stopped.state] == [COMPLETE, FAILED]
    assert [card.epoch for card in adapted.scorecards] == [1, 2]
    assert adapted.tags["adapted"] == "gradient_checkpointing"
    assert "1. training.gradient_checkpointing=true" in stopped.reason
    saved = read_metadata(adapted.folder / f"lora-{adapted.selected:06d}.safetensors")
    assert '"gradient_checkpointing": false' in saved["lorasweep_config"], "as in its first epoch"


def test_a_trial_with_smaller_images_is_scored_like_the_others(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out until it trains on smaller images; the study's context is unchanged."""
    original_step = Trainer.step

    def step(self: Trainer, running: Any, batch: int) -> None:
        if running[0].config.data.resolution > 64:
            raise torch.OutOfMemoryError("out of memory")
        original_step(self, running, batch)

    monkeypatch.setattr(Trainer, "step", step)
    trial = make(0, on_oom="degrade", epochs=1)
    trial.config.data.resolution = 96
    run([trial], 1)
    assert trial.record.state == COMPLETE
    assert trial.record.tags["adapted"] == "gradient_checkpointing, resolution"
    saved = read_metadata(trial.record.folder / "lora.safetensors")
    assert saved["ss_resolution"] == "(64, 64)"


def test_ctrl_c_stops_after_the_epoch_and_twice_at_once(
    make: Make, run: Run, tmp_path: Path
) -> None:
    trials = [make(0), make(1), make(2)]

    def interrupt(checkpoints: dict[Path, int]) -> None:
        signal.raise_signal(signal.SIGINT)

    with graceful_stop(tmp_path):
        run(trials, 2, interrupt)
    assert [trial.record.state for trial in trials] == [INTERRUPTED, INTERRUPTED, RUNNING]
    assert [len(trial.record.epochs) for trial in trials] == [1, 1, 0]

    def twice() -> None:
        with graceful_stop(tmp_path):
            signal.raise_signal(signal.SIGINT)
            run(trials, 2)  # starts nothing
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()
    with graceful_stop(tmp_path, hours=0):
        run(trials, 2)
    assert [len(trial.record.epochs) for trial in trials] == [1, 1, 0]
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [COMPLETE] * 3
    assert [len(trial.record.epochs) for trial in trials] == [2, 2, 2]


def test_ctrl_c_does_not_wait_for_a_distant_checkpoint(
    make: Make, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs, of which only the last is saved; a stop in the second ends it there."""
    long = {"epochs": 4, "save_every": 4}
    interrupted, uninterrupted = make(0, **long), make(1, **long)
    uninterrupted.config.network = interrupted.config.network
    epochs, train_epoch = [], Trainer._train_epoch

    def train(trainer: Trainer, running: Any) -> Any:
        epochs.append(len(running))
        if len(epochs) == 2:
            signal.raise_signal(signal.SIGINT)
        return train_epoch(trainer, running)

    monkeypatch.setattr(Trainer, "_train_epoch", train)
    with graceful_stop(tmp_path):
        run([interrupted], 1)
    assert (len(epochs), interrupted.record.state) == (2, INTERRUPTED)
    run([interrupted], 1)
    assert (len(epochs), interrupted.record.state) == (4, COMPLETE), "nothing is trained twice"
    run([uninterrupted], 1)
    files = [
        (trial.record.folder / "lora.safetensors").read_bytes()
        for trial in (interrupted, uninterrupted)
    ]
    assert files[0] == files[1]


WORTH = {(0, 1): 0.90, (0, 2): 0.89, (1, 1): 0.80, (1, 2): 0.79, (2, 1): 0.84, (2, 2): 0.86}


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        # each trial's selected checkpoint, and the best three of all
        ("best", {(0, 1), (0, 2), (1, 1), (2, 2)}),
        # without memorization, a trial's front is its best checkpoint
        ("pareto", {(0, 1), (0, 2), (1, 1), (2, 2)}),
        ("all", {*WORTH}),
    ],
)
def test_checkpoints_are_pruned_when_a_trial_ends(
    make: Make, run: Run, keep: str, expected: set[tuple[int, int]]
) -> None:
    trials = [make(number) for number in range(3)]
    for trial in trials:
        trial.config.study.keep_checkpoints = keep
    run(trials, 2, worth=lambda trial, epoch: WORTH[trial, epoch])
    names = {"lora-000001.safetensors": 1, "lora.safetensors": 2}
    folders = [trial.record.folder for trial in trials]
    remaining = {
        (i, names[f.name]) for i, folder in enumerate(folders) for f in folder.glob("*.safetensors")
    }
    assert remaining == expected
    assert all((folder / "lora-state.pt").exists() == (keep == "all") for folder in folders)
    for trial in trials:
        assert [card.epoch for card in load_record(trial.record.folder).scorecards] == [1, 2]
        assert all(trial.record.sheet(epoch).is_file() for epoch in (1, 2)), "sheets stay"
    with_images = {(i, epoch) for i, trial in enumerate(trials) for epoch in (1, 2)
             if images_file(trial.record.sheet(epoch)).is_file()}  # fmt: skip
    assert with_images == expected


def test_a_trial_needs_free_disk_space(
    make: Make, base: BaseModel, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space that running trials still need is not free."""
    trials = [make(number) for number in range(3)]
    study, config = trials[0].record.folder.parent.parent, trials[2].config
    trial_bytes = trial_size(base, dataset, config)
    description = describe_space(base, dataset, config, 3)
    assert "checkpoints of at most" in description
    assert "(study.keep_checkpoints=best)" in description
    for trial in trials[:2]:
        trial.record.save()

    def reason_with_free(count: float) -> str:
        usage = SimpleNamespace(free=MARGIN + count * trial_bytes)
        monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
        return low_space_reason(study, base, dataset, config)

    assert "are free at" in reason_with_free(2.9)
    assert reason_with_free(3.1) == ""
    (trials[0].record.folder / "lora-000001.safetensors").write_bytes(bytes(int(trial_bytes * 0.5)))
    assert reason_with_free(2.6) == "", "half of one trial is written"


def test_a_trial_that_cannot_join_a_pack_fails_alone(
    make: Make, run: Run, base: BaseModel, dataset: Dataset
) -> None:
    trials = [make(0), make(1)]
    other = trial_of(trials[1].config)
    list(Trainer(base, dataset, [TrialSpec(other, trials[0].record.folder)]))
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [FAILED, COMPLETE]
    assert "holds a run of other settings" in trials[0].record.reason


def test_a_damaged_resume_state_falls_back_to_the_last_checkpoint(
    make: Make, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scored epochs are not scored again, and the other trial is not affected."""
    trials, scored = [make(0), make(1)], []
    with graceful_stop(tmp_path):
        run(trials, 2, lambda checkpoints: signal.raise_signal(signal.SIGINT))
    (trials[0].record.folder / "lora-state.pt").write_bytes(b"torn")
    run(trials, 2, lambda checkpoints: scored.extend(checkpoints.values()))
    assert [trial.record.state for trial in trials] == [COMPLETE, COMPLETE]
    assert scored == [2, 2]
    assert "continues from lora-000001.safetensors (epoch 1)" in caplog.text


def test_rules_do_not_stop_a_trial_at_its_last_epoch(make: Make, run: Run) -> None:
    """Whatever the rules say, a trial that was trained to its end is complete."""
    trials = [make(0), make(1)]
    trials[0].rules = [lambda cards: "memorized" if len(cards) == 2 else ""]
    trials[1].rules = [lambda cards: "memorized" if len(cards) == 1 else ""]
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [COMPLETE, STOPPED]
    assert [trial.record.reason for trial in trials] == ["", "memorized"]


def test_pack_size_keeps_all_cpu_cores_busy(
    base: BaseModel, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(0, batch_size=1).config

    monkeypatch.setattr("train.loop.pack_size.MAX_TRIALS", 1000)
    monkeypatch.setattr("train.loop.pack_size.OPERATIONS_PER_CORE", 5.5 * operations(base, config))

    def size(cores: int, batch_size: int) -> int:
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        training = TrainingConfig(batch_size=batch_size)
        return pack_size(base, replace(config, training=training), max_trials=1000)

    assert [size(1, 1), size(4, 1), size(1, 2), size(1, 1000)] == [5, 22, 2, 1]


def test_pack_size_fits_into_free_gpu_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    base = cast(BaseModel, SimpleNamespace(device=torch.device("cuda:0")))
    monkeypatch.setattr(
        "train.loop.pack_size.peak_memory", lambda base, config, members: 10 + 5 * members
    )
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 20)
    config = make(0).config

    def size(free: int) -> int:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 200))
        return pack_size(base, config, max_trials=8)

    assert [size(180), size(30), size(10), size(0)] == [8, 6, 3, 1]
