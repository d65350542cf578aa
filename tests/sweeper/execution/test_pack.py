"""Packs of a sweep: who shares one, who follows, and what happens when one breaks."""

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


def test_a_free_place_is_filled_at_once_and_strangers_wait(make: Make, run: Run) -> None:
    one = [make(0, epochs=1), make(1, epochs=3), make(2, epochs=1, batch_size=2), make(3)]
    first, long, stranger, late = (trial.record for trial in one)
    states: list[list[str]] = []

    def coming() -> Iterator[Trial]:
        for trial in one:
            states.append([record.state for record in (first, long)])
            yield trial

    together: list[set[str]] = []
    run(coming(), 2, lambda found: together.append({path.parent.name for path in found}))
    assert states == [[RUNNING] * 2, [RUNNING] * 2, [COMPLETE, RUNNING], [COMPLETE, RUNNING]]
    assert together == [{"0000", "0001"}, {"0001", "0003"}, {"0001", "0003"}, {"0002"}]
    assert [len(record.epochs) for record in (first, long, stranger, late)] == [1, 3, 1, 2]
    assert {record.tags["pack"] for record in (first, long, stranger, late)} == {"2"}


def test_who_breaks_a_pack_fails_alone(make: Make, run: Run) -> None:
    trials = [make(number) for number in range(3)]

    def scoring(checkpoints: dict[Path, int]) -> None:
        if any(path.parent.name == "0001" and epoch == 2 for path, epoch in checkpoints.items()):
            raise RuntimeError("the encoder has had enough\nof this")

    run(trials, 3, scoring)
    assert [trial.record.state for trial in trials] == [COMPLETE, FAILED, COMPLETE]
    assert [len(trial.record.epochs) for trial in trials] == [2, 1, 2]
    assert trials[1].record.reason == "the encoder has had enough"
    assert "of this" in (trials[1].record.folder / "error.txt").read_text()


def test_too_large_a_pack_goes_on_in_halves(make: Make, run: Run) -> None:
    trials, sizes = [make(number) for number in range(4)], []

    def scoring(checkpoints: dict[Path, int]) -> None:
        sizes.append(len(checkpoints))
        if len(checkpoints) > 2:
            raise torch.OutOfMemoryError("out of memory")

    run(trials, 4, scoring)
    assert [trial.record.state for trial in trials] == [COMPLETE] * 4
    assert sizes == [4, 2, 2, 2, 2]


def test_a_trial_alone_adapts_to_the_memory_that_there_is(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run out, alone too: the one that may adapt goes on, the other says what would help."""
    go = Trainer.step

    def step(self: Trainer, running: Any, batch: int) -> None:
        if running[0].epoch == 1 and not running[0].config.training.gradient_checkpointing:
            raise torch.OutOfMemoryError("out of memory")
        go(self, running, batch)

    monkeypatch.setattr(Trainer, "step", step)
    trials = [make(0, on_oom="degrade"), make(1)]
    run(trials, 2)
    adapted, stopped = (trial.record for trial in trials)
    assert [adapted.state, stopped.state] == [COMPLETE, FAILED]
    assert [card.epoch for card in adapted.scorecards] == [1, 2]
    assert adapted.tags["adapted"] == "gradient_checkpointing"
    assert "1. training.gradient_checkpointing=true" in stopped.reason
    saved = read_metadata(adapted.folder / f"lora-{adapted.selected:06d}.safetensors")
    assert '"gradient_checkpointing": false' in saved["lorasweep_config"], "of its first epoch"


def test_a_trial_of_smaller_pictures_is_scored_as_the_others(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out until it trains smaller ones; the context of the study stays as it is."""
    go = Trainer.step

    def step(self: Trainer, running: Any, batch: int) -> None:
        if running[0].config.data.resolution > 64:
            raise torch.OutOfMemoryError("out of memory")
        go(self, running, batch)

    monkeypatch.setattr(Trainer, "step", step)
    trial = make(0, on_oom="degrade", epochs=1)
    trial.config.data.resolution = 96
    run([trial], 1)
    assert trial.record.state == COMPLETE
    assert trial.record.tags["adapted"] == "gradient_checkpointing, resolution"
    saved = read_metadata(trial.record.folder / "lora.safetensors")
    assert saved["ss_resolution"] == "(64, 64)"


def test_ctrl_c_ends_after_the_epoch_and_twice_at_once(
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
            run(trials, 2)  # begins nothing
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()
    with graceful_stop(tmp_path, hours=0):
        run(trials, 2)
    assert [len(trial.record.epochs) for trial in trials] == [1, 1, 0]
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [COMPLETE] * 3
    assert [len(trial.record.epochs) for trial in trials] == [2, 2, 2]


def test_ctrl_c_does_not_wait_for_a_checkpoint_that_is_far(
    make: Make, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs, saved at the last alone; asked in the second, it ends with that one."""
    long = {"epochs": 4, "save_every": 4}
    broken, whole = make(0, **long), make(1, **long)
    whole.config.network = broken.config.network
    epochs, go = [], Trainer._train_epoch

    def train(trainer: Trainer, running: Any) -> Any:
        epochs.append(len(running))
        if len(epochs) == 2:
            signal.raise_signal(signal.SIGINT)
        return go(trainer, running)

    monkeypatch.setattr(Trainer, "_train_epoch", train)
    with graceful_stop(tmp_path):
        run([broken], 1)
    assert (len(epochs), broken.record.state) == (2, INTERRUPTED)
    run([broken], 1)
    assert (len(epochs), broken.record.state) == (4, COMPLETE), "nothing is trained twice"
    run([whole], 1)
    files = [(trial.record.folder / "lora.safetensors").read_bytes() for trial in (broken, whole)]
    assert files[0] == files[1]


WORTH = {(0, 1): 0.90, (0, 2): 0.89, (1, 1): 0.80, (1, 2): 0.79, (2, 1): 0.84, (2, 2): 0.86}


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        # its selected one each, and the best three of all
        ("best", {(0, 1), (0, 2), (1, 1), (2, 2)}),
        # nothing is memorized: a trial's front is its best
        ("pareto", {(0, 1), (0, 2), (1, 1), (2, 2)}),
        ("all", {*WORTH}),
    ],
)
def test_what_is_not_kept_is_deleted_when_a_trial_ends(
    make: Make, run: Run, keep: str, left: set[tuple[int, int]]
) -> None:
    trials = [make(number) for number in range(3)]
    for trial in trials:
        trial.config.study.keep_checkpoints = keep
    run(trials, 2, worth=lambda trial, epoch: WORTH[trial, epoch])
    names = {"lora-000001.safetensors": 1, "lora.safetensors": 2}
    folders = [trial.record.folder for trial in trials]
    found = {
        (i, names[f.name]) for i, place in enumerate(folders) for f in place.glob("*.safetensors")
    }
    assert found == left
    assert all((place / "lora-state.pt").exists() == (keep == "all") for place in folders)
    for trial in trials:
        assert [card.epoch for card in load_record(trial.record.folder).scorecards] == [1, 2]
        assert all(trial.record.sheet(epoch).is_file() for epoch in (1, 2)), "sheets stay"
    drawn = {(i, epoch) for i, trial in enumerate(trials) for epoch in (1, 2)
             if images_file(trial.record.sheet(epoch)).is_file()}  # fmt: skip
    assert drawn == left


def test_a_trial_begins_where_there_is_room(
    make: Make, base: BaseModel, pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What those at work have still to write is not free."""
    trials = [make(number) for number in range(3)]
    study, config = trials[0].record.folder.parent.parent, trials[2].config
    one = trial_size(base, pictures, config)
    whole = describe_space(base, pictures, config, 3)
    assert "checkpoints of at most" in whole
    assert "(study.keep_checkpoints=best)" in whole
    for trial in trials[:2]:
        trial.record.save()

    def free(count: float) -> str:
        usage = SimpleNamespace(free=MARGIN + count * one)
        monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
        return low_space_reason(study, base, pictures, config)

    assert "are free at" in free(2.9)
    assert free(3.1) == ""
    (trials[0].record.folder / "lora-000001.safetensors").write_bytes(bytes(int(one * 0.5)))
    assert free(2.6) == "", "half of one trial is written"


def test_what_cannot_join_fails_and_the_others_train(
    make: Make, run: Run, base: BaseModel, pictures: Dataset
) -> None:
    trials = [make(0), make(1)]
    other = trial_of(trials[1].config)
    list(Trainer(base, pictures, [TrialSpec(other, trials[0].record.folder)]))
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [FAILED, COMPLETE]
    assert "holds a run of other settings" in trials[0].record.reason


def test_a_damaged_state_goes_on_from_the_last_checkpoint(
    make: Make, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The epochs that are scored are not scored again; the other trial knows nothing of it."""
    trials, scored = [make(0), make(1)], []
    with graceful_stop(tmp_path):
        run(trials, 2, lambda found: signal.raise_signal(signal.SIGINT))
    (trials[0].record.folder / "lora-state.pt").write_bytes(b"torn")
    run(trials, 2, lambda found: scored.extend(found.values()))
    assert [trial.record.state for trial in trials] == [COMPLETE, COMPLETE]
    assert scored == [2, 2]
    assert "goes on from lora-000001.safetensors (epoch 1)" in caplog.text


def test_at_its_last_epoch_nothing_is_stopped(make: Make, run: Run) -> None:
    """Whatever the rules say then: a trial that was trained to its end is complete."""
    trials = [make(0), make(1)]
    trials[0].rules = [lambda cards: "memorized" if len(cards) == 2 else ""]
    trials[1].rules = [lambda cards: "memorized" if len(cards) == 1 else ""]
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [COMPLETE, STOPPED]
    assert [trial.record.reason for trial in trials] == ["", "memorized"]


def test_a_cpu_takes_as_many_as_keep_its_cores_busy(
    base: BaseModel, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(0, batch_size=1).config

    monkeypatch.setattr("train.loop.pack_size.MOST", 1000)
    monkeypatch.setattr("train.loop.pack_size.ENOUGH", 5.5 * operations(base, config))

    def size(cores: int, batch_size: int) -> int:
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        training = TrainingConfig(batch_size=batch_size)
        return pack_size(base, replace(config, training=training), most=1000)

    assert [size(1, 1), size(4, 1), size(1, 2), size(1, 1000)] == [5, 22, 2, 1]


def test_a_gpu_takes_as_many_as_fit_beside_other_processes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = cast(BaseModel, SimpleNamespace(device=torch.device("cuda:0")))
    monkeypatch.setattr(
        "train.loop.pack_size.peak_memory", lambda base, config, members: 10 + 5 * members
    )
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 20)
    config = make(0).config

    def size(free: int) -> int:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 200))
        return pack_size(base, config, most=8)

    assert [size(180), size(30), size(10), size(0)] == [8, 6, 3, 1]
