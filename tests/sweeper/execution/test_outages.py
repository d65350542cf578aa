"""Outages of the machine are no trial's fault: the command ends, and the same one continues."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from sweeper.config import STOP, WAIT, StudyConfig
from sweeper.execution import outage_retry
from sweeper.execution.outage_retry import retry_on_outage
from sweeper.execution.trial import Trial
from sweeper.study.storage import NO_PRUNER, open_study
from sweeper.study.study import begin_study
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    IN_PROGRESS_FILE,
    INTERRUPTED,
    TrialRecord,
    load_record,
    load_records,
)
from tests.sweeper.conftest import LIMIT, SEARCH, SMALL, Swept, finish, start
from tests.sweeper.packs import Lease, Make, Run
from tests.sweeper.study.test_budget import PARTS
from train.errors import CheckpointError
from train.loop.trainer import Trainer
from train.system.outage import Outage, outage

MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 150 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150M", "tmpfs", str(place)],
                             capture_output=True, check=False)  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_disk(disk: Path) -> Path:
    """Uses up all free space; returns the file that does."""
    file = disk / "of somebody else"
    with file.open("wb", buffering=0) as stream:
        for size in (MEGABYTE, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return file


def check_all_complete(root: Path) -> None:
    """Checks that both trials are complete, and that no crash was counted."""
    study = root / "studies" / "small"
    records = load_records(study)
    assert [record.state for record in records] == [COMPLETE] * 2
    assert [len(record.epochs) for record in records] == [2, 2]
    assert not any("deaths" in trial.user_attrs for trial in open_study(study, NO_PRUNER).trials)
    assert (study / "best.safetensors").is_file()


@pytest.mark.parametrize("wait", [False, True])
def test_a_full_disk(small_disk: Path, swept: Swept, wait: bool) -> None:
    """The disk fills up during the first trial; with free space, both trials are completed."""
    root = small_disk / "mlruns"
    shutil.copytree(swept.root / "cache", root / "cache")
    line = (*SEARCH, *SMALL, "pack=1", f"study.on_outage={WAIT if wait else STOP}")
    process, output, filler = start("sweeper", *line, f"study.root={root}"), "", None
    deadline = time.monotonic() + LIMIT
    for text in process.stdout:
        output += text
        assert time.monotonic() < deadline, output
        if "trial 0  epoch  1/2" in text:
            filler = fill_disk(small_disk)
        if filler and text.startswith("waiting: "):
            filler.unlink()
    code, _ = process.finish(LIMIT)
    assert filler, output
    assert "Traceback" not in output
    assert "failed" not in output
    if not wait:
        assert code == 1
        last = output.splitlines()[-1]
        assert last.startswith("error: "), output
        assert "MB are free" in last or "No space left" in last
        assert last.endswith("the same command continues the study")
        (record,) = load_records(root / "studies" / "small")
        assert record.state in (INTERRUPTED, "running")  # if not even the state could be written
        assert not (record.folder / IN_PROGRESS_FILE).exists()
        filler.unlink()
        code, output = finish(root, "sweeper", *line)
    assert code == 0, output
    check_all_complete(root)


def test_a_file_size_limit(fresh: Path) -> None:
    """Like a quota: the resume state of every trial is too large to be written."""
    line = [sys.executable, "-u", "-m", "sweeper", *SEARCH, *SMALL, f"study.root={fresh}"]
    ended = subprocess.run(
        line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, -1)),
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout
    last = ended.stdout.splitlines()[-1]
    assert "cannot be written: File too large; the same command continues" in last, ended.stdout
    assert "Traceback" not in ended.stdout
    assert {r.state for r in load_records(fresh / "studies" / "small")} == {INTERRUPTED}
    code, output = finish(fresh, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    check_all_complete(fresh)


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/share/x")


def lost_checkpoint() -> CheckpointError:
    error = CheckpointError("/share/x cannot be written: Stale file handle")
    error.__cause__ = os_error(errno.ESTALE)
    return error


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("training", os_error(errno.ENOSPC)),
        ("training", os_error(errno.EMFILE)),
        ("training", lost_checkpoint()),
        ("training", RuntimeError("open file failed with strerror: Too many open files")),
        ("training", RuntimeError("CUDA error: uncorrectable ECC error encountered")),
        ("scoring", os_error(errno.EACCES)),
        ("scoring", RuntimeError("can't start new thread")),
        ("recording", os_error(errno.EIO)),
        ("recording", Outage("the card is away")),
        ("joining", os_error(errno.ENOENT)),
        ("beginning", os_error(errno.EROFS)),
        ("ending", os_error(errno.EDQUOT)),
    ],
)
def test_an_outage_only_interrupts_a_pack(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    trials, released = [make(0), make(1), make(2)], list[int]()
    for trial in trials:
        trial.lease = cast(Any, Lease(partial(released.append, trial.record.number)))
    broken = True

    def fail_at(original: Callable[..., Any], at: int) -> Callable[..., Any]:
        calls = iter(range(1_000))

        def call(*arguments: Any, **keywords: Any) -> Any:
            if broken and next(calls) == at:
                raise error
            return original(*arguments, **keywords)

        return call

    scoring = fail_at(lambda checkpoints: None, 1)
    if where != "scoring":
        kind, name, at = {
            "training": (Trainer, "step", 1),
            "joining": (Trainer, "add", 1),
            "recording": (Trial, "log", 1),
            "beginning": (TrialRecord, "save", 1),
            "ending": (TrialRecord, "end", 0),
        }[where]
        monkeypatch.setattr(kind, name, fail_at(getattr(kind, name), at))
        scoring = lambda checkpoints: None  # noqa: E731
    with pytest.raises((Outage, type(error))):
        run(trials, 2, scoring)
    assert not any(trial.record.state in (FAILED, COMPLETE) for trial in trials)
    assert not any((trial.record.folder / IN_PROGRESS_FILE).exists() for trial in trials)
    assert {0, 1} <= {*released}, "other workers may acquire them"
    broken = False
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [COMPLETE] * 3
    assert [len(load_record(trial.record.folder).epochs) for trial in trials] == [2, 2, 2]


def test_errors_of_a_trial_are_not_outages() -> None:
    for error in (
        RuntimeError("the encoder has had enough"),
        ValueError("expected a tensor"),
        KeyError("prompt_fidelity"),
        OSError("image file is truncated (3 bytes not processed)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
    ):
        assert outage(error) == "", error


def test_a_device_error_that_a_trial_may_have_caused_counts_as_a_crash(
    make: Make, run: Run
) -> None:
    """Otherwise it would crash every process that continues the study."""
    trial = make(0)

    def scoring(checkpoints: dict[Path, int]) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(Outage, match="device-side assert"):
        run([trial], 1, scoring)
    assert (trial.record.folder / IN_PROGRESS_FILE).exists()


def test_a_failure_that_cannot_be_recorded_is_an_interruption(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is retried when there is free space, and then fails."""
    trial = make(0)

    def scoring(checkpoints: dict[Path, int]) -> None:
        raise RuntimeError("the encoder has had enough")

    def write(file: Path, text: str) -> None:
        raise os_error(errno.ENOSPC)

    with monkeypatch.context() as patch:
        patch.setattr("sweeper.execution.trial.write_text_atomically", write)
        with pytest.raises(OSError, match="No space left"):
            run([trial], 1, scoring)
    assert trial.record.state == INTERRUPTED
    assert not (trial.record.folder / IN_PROGRESS_FILE).exists()
    run([trial], 1, scoring)
    assert trial.record.state == FAILED


def test_a_gpu_that_other_processes_have_filled(
    make: Make,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fallbacks are used only if the trial itself needs the memory: see the tests of packs."""
    trial = make(0, on_oom="degrade")
    reason = "out of memory, and other processes hold about 70.1 of the 80.0 GB of cuda:0"
    monkeypatch.setattr(
        "sweeper.execution.pack_runner.memory_of_other_processes", lambda device: reason
    )

    def scoring(checkpoints: dict[Path, int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(Outage, match="other processes hold about"):
        run([trial], 1, scoring)
    assert trial.record.state == INTERRUPTED
    assert "adapted" not in trial.record.tags, "no fallback was needed"
    run([trial], 1)
    assert trial.record.state == COMPLETE


@pytest.mark.parametrize("at", ["training", "scoring"])
def test_a_missing_folder_is_not_recreated(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: str
) -> None:
    """As on an unmounted share: the trial continues when the folder is back."""
    trial, study, moved = make(0), tmp_path / "study", tmp_path / "away"
    original_step = Trainer.step

    def step(*arguments: Any) -> None:
        original_step(*arguments)
        if at == "training" and not moved.exists():
            study.rename(moved)

    def scoring(checkpoints: dict[Path, int]) -> None:
        if at == "scoring":
            study.rename(moved)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(Outage, match=r"trial\.json no longer exists"):
        run([trial], 1, scoring)
    shutil.rmtree(study, ignore_errors=True)
    moved.rename(study)
    monkeypatch.undo()
    run([trial], 1)
    assert trial.record.state == COMPLETE
    assert [card.epoch for card in trial.record.scorecards] == [1, 2]


def test_retry_pauses_grow_and_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    now, durations = 0.0, {8: 700.0}

    def action() -> None:
        nonlocal now
        now += durations.get(len(pauses), 0.0)
        if len(pauses) < 10:
            raise os_error(errno.ESTALE)

    monkeypatch.setattr(outage_retry, "_wait", lambda seconds, *rest: pauses.append(seconds))
    monkeypatch.setattr(outage_retry.time, "monotonic", lambda: now)
    retry_on_outage(StudyConfig(root=str(tmp_path), on_outage=WAIT), action)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 10, 20]
    pauses.clear()
    with pytest.raises(Outage, match="Stale file handle; the same command continues the study"):
        retry_on_outage(StudyConfig(root=str(tmp_path)), action)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.EEXIST])
def test_errors_that_need_a_person_are_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wrapped: bool
) -> None:
    """A folder in place of a file is an outage, but it does not go away by itself."""
    monkeypatch.setattr(outage_retry, "_wait", lambda *rest: pytest.fail("it waits"))

    def action() -> None:
        if wrapped:
            raise CheckpointError("/share/x cannot be written") from os_error(number)
        raise os_error(number)

    with pytest.raises(Outage) as caught:
        retry_on_outage(StudyConfig(root=str(tmp_path), on_outage=WAIT), action)
    message = f"{os.strerror(number)}; move it away; the same command continues the study"
    assert str(caught.value).endswith(message)


def test_an_unmounted_share_is_waited_for_and_not_recreated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, moved, attempts = tmp_path / "mlruns", tmp_path / "away", 0

    def action() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            root.rename(moved)
            raise os_error(errno.ENOTCONN)

    def wait(seconds: float, *rest: object) -> None:
        assert not root.exists()
        if seconds == 20:
            moved.rename(root)

    monkeypatch.setattr(outage_retry, "_wait", wait)
    retry_on_outage(StudyConfig(root=str(root), on_outage=WAIT), action)
    assert attempts == 2


def test_ctrl_c_ends_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def action() -> None:
        raise os_error(errno.EIO)

    monkeypatch.setattr(outage_retry.time, "sleep", lambda s: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        retry_on_outage(StudyConfig(root=str(tmp_path), on_outage=WAIT), action)


@pytest.mark.parametrize("has_name", [True, False])
def test_a_stop_request_ends_waiting(tmp_path: Path, has_name: bool) -> None:
    study, other = (tmp_path / "studies" / name for name in ("small", "other"))
    for folder in (study, other):
        folder.mkdir(parents=True)
        (folder / "leave").touch()  # before the command, so it is no request
    name = "small" if has_name else None
    attempts, config = 0, StudyConfig(name=name, root=str(tmp_path), on_outage=WAIT)

    def action() -> None:
        nonlocal attempts
        attempts += 1
        begin_study(config, "small", **PARTS, shared_settings={})
        assert attempts < 4, "it still waits"
        touched = study if attempts == 2 else other
        os.utime(touched / "leave", (attempts, attempts))
        raise os_error(errno.EIO)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outage_retry, "MIN_PAUSE", 0.1)
        with pytest.raises(KeyboardInterrupt):
            retry_on_outage(config, action)
    assert attempts == 2
