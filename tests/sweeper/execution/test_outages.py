"""What the machine does wrong is no trial's fault: the command ends, and the same continues."""

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
    """A file system of 150 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150M", "tmpfs", str(place)],
                             capture_output=True, check=False)  # fmt: skip
    if mounted.returncode:
        pytest.skip("to mount a small disk is not permitted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Takes all the room that there is."""
    file = disk / "of somebody else"
    with file.open("wb", buffering=0) as stream:
        for size in (MEGABYTE, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return file


def all_complete(root: Path) -> None:
    """No trial failed, and no process is held to have died with one."""
    study = root / "studies" / "small"
    records = load_records(study)
    assert [record.state for record in records] == [COMPLETE] * 2
    assert [len(record.epochs) for record in records] == [2, 2]
    assert not any("deaths" in trial.user_attrs for trial in open_study(study, NO_PRUNER).trials)
    assert (study / "best.safetensors").is_file()


@pytest.mark.parametrize("waits", [False, True])
def test_a_disk_that_fills_up(small_disk: Path, swept: Swept, waits: bool) -> None:
    """In the middle of the first trial; once there is room, both are trained to their end."""
    root = small_disk / "mlruns"
    shutil.copytree(swept.root / "cache", root / "cache")
    line = (*SEARCH, *SMALL, "pack=1", f"study.on_outage={WAIT if waits else STOP}")
    process, output, filler = start("sweeper", *line, f"study.root={root}"), "", None
    deadline = time.monotonic() + LIMIT
    for text in process.stdout:
        output += text
        assert time.monotonic() < deadline, output
        if "trial 0  epoch  1/2" in text:
            filler = fill(small_disk)
        if filler and text.startswith("waiting: "):
            filler.unlink()
    code, _ = process.finish(LIMIT)
    assert filler, output
    assert "Traceback" not in output
    assert "failed" not in output
    if not waits:
        assert code == 1
        last = output.splitlines()[-1]
        assert last.startswith("error: "), output
        assert "MB are free" in last or "No space left" in last
        assert last.endswith("the same command continues the study")
        (record,) = load_records(root / "studies" / "small")
        assert record.state in (INTERRUPTED, "running")  # where not even that could be written
        assert not (record.folder / IN_PROGRESS_FILE).exists()
        filler.unlink()
        code, output = finish(root, "sweeper", *line)
    assert code == 0, output
    all_complete(root)


def test_a_system_that_refuses_large_files(fresh: Path) -> None:
    """As a quota does: what a trial goes on from is too large to be written, in every trial."""
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
    all_complete(fresh)


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/share/x")


def _lost_checkpoint() -> CheckpointError:
    error = CheckpointError("/share/x cannot be written: Stale file handle")
    error.__cause__ = _refused(errno.ESTALE)
    return error


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("training", _refused(errno.ENOSPC)),
        ("training", _refused(errno.EMFILE)),
        ("training", _lost_checkpoint()),
        ("training", RuntimeError("open file failed with strerror: Too many open files")),
        ("training", RuntimeError("CUDA error: uncorrectable ECC error encountered")),
        ("scoring", _refused(errno.EACCES)),
        ("scoring", RuntimeError("can't start new thread")),
        ("recording", _refused(errno.EIO)),
        ("recording", Outage("the card is away")),
        ("joining", _refused(errno.ENOENT)),
        ("beginning", _refused(errno.EROFS)),
        ("ending", _refused(errno.EDQUOT)),
    ],
)
def test_each_error_of_the_machine_leaves_the_pack_as_it_was(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    trials, left = [make(0), make(1), make(2)], list[int]()
    for trial in trials:
        trial.lease = cast(Any, Lease(partial(left.append, trial.record.number)))
    broken = True

    def fails(original: Callable[..., Any], at: int) -> Callable[..., Any]:
        calls = iter(range(1_000))

        def go(*arguments: Any, **named: Any) -> Any:
            if broken and next(calls) == at:
                raise error
            return original(*arguments, **named)

        return go

    scoring = fails(lambda checkpoints: None, 1)
    if where != "scoring":
        kind, name, at = {
            "training": (Trainer, "step", 1),
            "joining": (Trainer, "add", 1),
            "recording": (Trial, "log", 1),
            "beginning": (TrialRecord, "save", 1),
            "ending": (TrialRecord, "end", 0),
        }[where]
        monkeypatch.setattr(kind, name, fails(getattr(kind, name), at))
        scoring = lambda checkpoints: None  # noqa: E731
    with pytest.raises((Outage, type(error))):
        run(trials, 2, scoring)
    assert not any(trial.record.state in (FAILED, COMPLETE) for trial in trials)
    assert not any((trial.record.folder / IN_PROGRESS_FILE).exists() for trial in trials)
    assert {0, 1} <= {*left}, "others may take them up"
    broken = False
    run(trials, 2)
    assert [trial.record.state for trial in trials] == [COMPLETE] * 3
    assert [len(load_record(trial.record.folder).epochs) for trial in trials] == [2, 2, 2]


def test_a_mistake_of_a_trial_is_its_own() -> None:
    for error in (
        RuntimeError("the encoder has had enough"),
        ValueError("expected a tensor"),
        KeyError("prompt_fidelity"),
        OSError("image file is truncated (3 bytes not processed)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
    ):
        assert outage(error) == "", error


def test_a_device_that_a_trial_may_have_broken_counts_as_its_death(make: Make, run: Run) -> None:
    """Else it would break each process that continues the study, for ever."""
    trial = make(0)

    def scoring(checkpoints: dict[Path, int]) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(Outage, match="device-side assert"):
        run([trial], 1, scoring)
    assert (trial.record.folder / IN_PROGRESS_FILE).exists()


def test_a_failure_that_cannot_be_written_down_is_none(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is tried again once there is room, and then it fails as it would have."""
    trial = make(0)

    def scoring(checkpoints: dict[Path, int]) -> None:
        raise RuntimeError("the encoder has had enough")

    def write(file: Path, text: str) -> None:
        raise _refused(errno.ENOSPC)

    with monkeypatch.context() as patch:
        patch.setattr("sweeper.execution.trial.write_text_atomically", write)
        with pytest.raises(OSError, match="No space left"):
            run([trial], 1, scoring)
    assert trial.record.state == INTERRUPTED
    assert not (trial.record.folder / IN_PROGRESS_FILE).exists()
    run([trial], 1, scoring)
    assert trial.record.state == FAILED


def test_a_card_that_others_have_filled(
    make: Make,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As before where it is the trial's alone: see the tests of packs."""
    trial = make(0, on_oom="degrade")
    said = "out of memory, and other processes hold about 70.1 of the 80.0 GB of cuda:0"
    monkeypatch.setattr(
        "sweeper.execution.pack_runner.memory_of_other_processes", lambda device: said
    )

    def scoring(checkpoints: dict[Path, int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(Outage, match="other processes hold about"):
        run([trial], 1, scoring)
    assert trial.record.state == INTERRUPTED
    assert "adapted" not in trial.record.tags, "it has what it needs"
    run([trial], 1)
    assert trial.record.state == COMPLETE


@pytest.mark.parametrize("at", ["training", "scoring"])
def test_a_folder_that_is_gone_is_not_made_anew(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: str
) -> None:
    """As below a share that is away: the trial goes on once the folder is back."""
    trial, study, away = make(0), tmp_path / "study", tmp_path / "away"
    go = Trainer.step

    def step(*arguments: Any) -> None:
        go(*arguments)
        if at == "training" and not away.exists():
            study.rename(away)

    def scoring(checkpoints: dict[Path, int]) -> None:
        if at == "scoring":
            study.rename(away)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(Outage, match=r"trial\.json is not there any more"):
        run([trial], 1, scoring)
    shutil.rmtree(study, ignore_errors=True)
    away.rename(study)
    monkeypatch.undo()
    run([trial], 1)
    assert trial.record.state == COMPLETE
    assert [card.epoch for card in trial.record.scorecards] == [1, 2]


def test_waiting_grows_longer_and_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    now, lasts = 0.0, {8: 700.0}

    def action() -> None:
        nonlocal now
        now += lasts.get(len(pauses), 0.0)
        if len(pauses) < 10:
            raise _refused(errno.ESTALE)

    monkeypatch.setattr(outage_retry, "_wait", lambda seconds, *rest: pauses.append(seconds))
    monkeypatch.setattr(outage_retry.time, "monotonic", lambda: now)
    retry_on_outage(StudyConfig(root=str(tmp_path), on_outage=WAIT), action)
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 10, 20]
    pauses.clear()
    with pytest.raises(Outage, match="Stale file handle; the same command continues the study"):
        retry_on_outage(StudyConfig(root=str(tmp_path)), action)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.EEXIST])
def test_what_only_a_person_can_move_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wrapped: bool
) -> None:
    """A folder in the place of a file: it is the machine's, and no trial's, but stays so."""
    monkeypatch.setattr(outage_retry, "_wait", lambda *rest: pytest.fail("it waits"))

    def action() -> None:
        if wrapped:
            raise CheckpointError("/share/x cannot be written") from _refused(number)
        raise _refused(number)

    with pytest.raises(Outage) as caught:
        retry_on_outage(StudyConfig(root=str(tmp_path), on_outage=WAIT), action)
    words = f"{os.strerror(number)}; move it away; the same command continues the study"
    assert str(caught.value).endswith(words)


def test_a_share_that_is_away_is_waited_for_and_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, away, tried = tmp_path / "mlruns", tmp_path / "away", 0

    def action() -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            root.rename(away)
            raise _refused(errno.ENOTCONN)

    def wait(seconds: float, *rest: object) -> None:
        assert not root.exists()
        if seconds == 20:
            away.rename(root)

    monkeypatch.setattr(outage_retry, "_wait", wait)
    retry_on_outage(StudyConfig(root=str(root), on_outage=WAIT), action)
    assert tried == 2


def test_ctrl_c_ends_the_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def action() -> None:
        raise _refused(errno.EIO)

    monkeypatch.setattr(outage_retry.time, "sleep", lambda s: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        retry_on_outage(StudyConfig(root=str(tmp_path), on_outage=WAIT), action)


@pytest.mark.parametrize("named", [True, False])
def test_a_study_that_is_asked_to_leave_stops_waiting(tmp_path: Path, named: bool) -> None:
    study, other = (tmp_path / "studies" / name for name in ("small", "other"))
    for folder in (study, other):
        folder.mkdir(parents=True)
        (folder / "leave").touch()  # before the command: no request to it
    name = "small" if named else None
    tried, config = 0, StudyConfig(name=name, root=str(tmp_path), on_outage=WAIT)

    def action() -> None:
        nonlocal tried
        tried += 1
        begin_study(config, "small", **PARTS, shared_settings={})
        assert tried < 4, "it waits on"
        touched = study if tried == 2 else other
        os.utime(touched / "leave", (tried, tried))
        raise _refused(errno.EIO)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outage_retry, "MIN_PAUSE", 0.1)
        with pytest.raises(KeyboardInterrupt):
            retry_on_outage(config, action)
    assert tried == 2
