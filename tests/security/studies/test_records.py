"""Untrusted trial records and scorecards: read as typed values, or refused in one line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from evaluate.config import PolicyConfig
from evaluate.score_cache import FILE as CACHE_FILE
from evaluate.score_cache import ScoreCache
from evaluate.scorecard import Estimate, Scorecard
from evaluate.selection.diagnosis import diagnose
from sweeper.config import ALL, BEST, BudgetConfig, StudyConfig, SweepConfig
from sweeper.console.progress import Progress
from sweeper.execution.disk import prune_checkpoints
from sweeper.execution.trial import Trial
from sweeper.results.mlflow_description import describe_study
from sweeper.results.ranking import explain, rank_trials, varied_params
from sweeper.results.report import tables
from sweeper.study.budget import budget_exhausted
from sweeper.tracking import trial_record as records
from sweeper.tracking.trial_record import (
    COMPLETE,
    RECORD_FILE,
    RecordError,
    ScoredEpoch,
    TrialRecord,
    load_record,
    load_records,
    read_record,
    resume_record,
)
from tests.security.hostile_texts import TEXTS
from train.errors import ConfigError

Saved = dict[str, Any]
POLICY = PolicyConfig(max={"copying": 0.35}, min={"prompt_fidelity": 0.7})


def keeping(checkpoints: str) -> SweepConfig:
    """Settings that keep these checkpoints."""
    return SweepConfig(selection=POLICY, study=StudyConfig(keep_checkpoints=checkpoints))


NAMES = ("prompt_fidelity", "subject_fidelity", "copying", "validation_loss")
SETTINGS = {
    "data": {"path": "pictures", "trigger": "sks puppet"},
    "base": {"path": "puppets"},
    "network": {"rank": 8},
    "optimizer": {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.999]},
    "scheduler": {"name": "constant"},
    "training": {"epochs": 3},
    "probes": {"steps": 6, "guidance": 3.0},
    "selection": {"rule": "overfit_aware"},
    "study": {"storage": None},
}


def epoch(number: int) -> ScoredEpoch:
    scores = {name: Estimate(0.5 + number / 10, 0.1, 0.9) for name in NAMES}
    by_probe = {name: [0.4, 0.6, number / 10] for name in NAMES}
    card = Scorecard(Path(f"/there/lora-{number}.safetensors"), number, scores, by_probe, ["so"])
    card.copies = {0: 1}
    return ScoredEpoch(card, 0.1, 1e-3, 2.0, 1.0, 1_700_000_000_000 + number, "0a" * 32)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """The content of a valid record file."""
    tags = {"pack": "2", "epochs": "3", "seconds.preparing": "1.250", "hardware.device": "here"}
    params = {"network.rank": 8, "optimizer": "adamw"}
    record = TrialRecord(
        tmp_path, "s", 0, SETTINGS, ["network.rank=8"], params, tags, COMPLETE, "", 2,
        [epoch(1), epoch(2), epoch(3)], 1_700_000_000_009,
    )  # fmt: skip
    record.save()
    content: Saved = json.loads((tmp_path / RECORD_FILE).read_text())
    return content


def use_record(record: TrialRecord) -> None:
    """Uses a record like a sweep, a selection and a report."""
    other = deepcopy(record)
    other.number, other.params = record.number + 1, {"network.rank": 4}
    ranked = rank_trials([record, other], POLICY, lambda _: "")
    if ranked[0].selection:
        explain(ranked)
        describe_study(ranked)
    tables.trial_table(ranked, varied_params(ranked))
    tables.setting_groups(record)
    tables.chips(record)
    tables.timing([record, other])
    for card in record.scorecards:
        tables.score_rows(card, POLICY)
    diagnose(record.scorecards, POLICY)
    budget_exhausted(BudgetConfig(hours=1, device_hours=1, patience=1), [record, other], POLICY)
    assert record.total_epochs >= 0
    assert record.pack >= 1
    assert record.preparing >= 0
    record.setting("data", "trigger")
    record.setting("probes", "steps")
    prune_checkpoints(record, keeping(BEST))
    if record.epochs:
        progress = Progress(record.folder, 2, 3)
        progress.epoch_scored(record, POLICY)
        progress.trial_ended(record)


def read_and_use(folder: Path, saved: object) -> TrialRecord | None:
    """Reads and uses a record; returns None if it is refused in one line."""
    (folder / RECORD_FILE).write_text(json.dumps(saved))
    message = ""
    try:
        record = load_record(folder)
    except RecordError as error:
        message = str(error)
    if not message:
        use_record(record)
        return record
    assert message.startswith(f"{folder / RECORD_FILE} is not a trial's record: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return None


def test_valid_record_is_read_and_saved_unchanged(tmp_path: Path, saved: Saved) -> None:
    record = read_and_use(tmp_path, saved)
    assert record
    assert (record.pack, record.preparing, record.total_epochs) == (2, 1.25, 3)
    assert record.epochs[1].scorecard.checkpoint == tmp_path / "lora-2.safetensors"
    assert record.epochs[1].scorecard.copies == {0: 1}
    record.save()
    saved_again = json.loads((tmp_path / RECORD_FILE).read_text())
    for epoch in saved["epochs"]:
        card = epoch["scorecard"]
        card["checkpoint"] = str(tmp_path / Path(card["checkpoint"]).name)
    assert saved_again == saved


def value_paths(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Yields the paths of all values in a record, of lists only that of the last item."""
    yield path
    inner: list[tuple[Any, Any]] = [*value.items()] if isinstance(value, dict) else []
    if isinstance(value, list):
        inner = [*enumerate(value)][-1:]
    for key, item in inner:
        yield from value_paths(item, *path, key)


VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**18, 10**400, 1e308, -1e308, float("nan"), float("inf"), "",
    "text", "9" * 5000, "\ud800\0", [], [[]], {}, {"": {}}, {"a": None}, [None, "a", 1],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_invalid_value_is_read_or_refused(tmp_path: Path, saved: Saved, value: Any) -> None:
    """Each value of a record is replaced by each of these values, or removed."""
    for path in [*value_paths(saved)][1:]:
        changed = deepcopy(saved)
        container = changed
        for key in path[:-1]:
            container = container[key]
        if value is None and isinstance(container, dict):
            del container[path[-1]]
            read_and_use(tmp_path, changed)
        container[path[-1]] = value
        read_and_use(tmp_path, changed)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_hostile_texts_are_read(tmp_path: Path, saved: Saved, text: str) -> None:
    saved |= {"study": text, "reason": text, "overrides": [text], "params": {text: text}}
    saved["tags"] |= {text: text, "hardware.device": text, "adapted": text}
    saved["settings"] |= {text: {text: text}}
    saved["settings"]["data"] = {"trigger": text}
    saved["epochs"][0]["scorecard"] |= {"notes": [text], "failure": text}
    record = read_and_use(tmp_path, saved)
    assert record
    assert record.params == {text: text}
    trial = Trial(None, None, record, None, None)  # type: ignore[arg-type]
    assert trial.fallbacks == ()


REFUSED = {
    "no text": b"\x80\x04\x95pickle",
    "deep": b"[" * 100_000,
    "deep settings": b'{"settings":' + b'{"a":' * 2000 + b"1" + b"}" * 2001,
    "a list": b"[1, 2]",
    "null": b"null",
    "nothing": b"",
    "a number": b"1" * 5000,
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_file_that_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        read_record(content, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    (tmp_path / RECORD_FILE).write_bytes(content)
    assert resume_record(tmp_path, {}) is None
    assert not (tmp_path / RECORD_FILE).exists()


@pytest.mark.parametrize(
    "checkpoint",
    ["..", "../..", "", "/", ".", "a/..", "a\0b", "\ud800", "a/\ud800.safetensors", "n" * 300],
)
def test_invalid_checkpoint_name_is_refused(tmp_path: Path, saved: Saved, checkpoint: str) -> None:
    saved["epochs"][0]["scorecard"]["checkpoint"] = checkpoint
    assert read_and_use(tmp_path, saved) is None


@pytest.mark.parametrize(
    "checkpoint", ["/etc/passwd", "../../../passwd", "C:\\models\\passwd", "passwd", "\udce9.st"]
)
def test_checkpoint_path_is_in_the_folder_of_its_trial(
    tmp_path: Path, saved: Saved, checkpoint: str
) -> None:
    saved["epochs"][0]["scorecard"]["checkpoint"] = checkpoint
    record = read_and_use(tmp_path, saved)
    assert record
    assert record.scorecards[0].checkpoint.parent == tmp_path


def test_only_checkpoints_are_deleted(tmp_path: Path, saved: Saved) -> None:
    """The record and the MLflow run file stay, even if the record names them as checkpoints."""
    folder = tmp_path / "studies" / "s" / "trials" / "0000"
    folder.mkdir(parents=True)
    names = ("lora-1.safetensors", "mlflow.json")
    for epoch, name in zip(saved["epochs"][1:], names, strict=True):
        epoch["scorecard"]["checkpoint"] = name
        (folder / name).write_text("")
    saved["epochs"][1]["scorecard"]["failure"] = "it is not finite"
    saved["selected"] = 1
    (folder / RECORD_FILE).write_text(json.dumps(saved))
    record = load_record(folder)
    record.epochs[0].scorecard.checkpoint = folder / "gone.safetensors"
    for number in range(3):  # checkpoints that the study keeps, of any trial
        best = folder / f"best-{number}.safetensors"
        best.write_text("")
        record.epochs.append(deepcopy(record.epochs[0]))
        record.epochs[-1].scorecard.checkpoint = best
    prune_checkpoints(record, keeping(ALL))
    assert (folder / names[0]).exists()
    prune_checkpoints(record, keeping(BEST))
    assert not (folder / names[0]).exists()
    assert (folder / names[1]).exists()
    assert (folder / RECORD_FILE).exists()


def test_older_records_are_read(tmp_path: Path, saved: Saved) -> None:
    """They lack later fields, have NaN scores and unknown fields."""
    for name in ("ended", "reason", "state", "selected"):
        del saved[name]
    saved["settings"], saved["tags"] = {}, {}
    saved["a_field_of_tomorrow"] = {"a": [1]}
    first, second, third = saved["epochs"]
    for name in ("pictures", "probes", "memory", "lr_text_encoder"):
        del first[name]
    for name in ("copies", "failure"):
        del first["scorecard"][name], third["scorecard"][name]
    first["scorecard"]["scores"]["copying"]["high"] = float("inf")
    second["scorecard"]["scores"]["copying"]["value"] = float("nan")
    second["train_loss"] = second["lr"] = float("nan")
    third["scorecard"]["scores"] = {}
    first["scorecard"]["checkpoint"] = "/pictures/caf\udce9/lora-1.safetensors"
    record = read_and_use(tmp_path, saved)
    assert record
    assert (record.state, record.ended, record.selected) == ("running", 0, None)
    assert (record.pack, record.preparing, record.total_epochs) == (1, 0.0, 0)
    assert record.setting("data", "trigger") is None
    cards = record.scorecards
    assert [set(card.scores) for card in cards] == [{*NAMES} - {"copying"}] * 2 + [set()]
    assert [card.failure for card in cards] == ["", "", "its images could not be scored"]
    assert cards[0].copies == {}
    assert "copying" not in cards[0].by_probe
    assert cards[0].checkpoint == tmp_path / "lora-1.safetensors"
    assert str(record.epochs[1].train_loss) == "nan"
    assert (record.epochs[0].pictures, record.epochs[0].memory) == (0, 0.0)


def test_too_many_or_too_large_records_are_refused(
    tmp_path: Path, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        folder = tmp_path / "trials" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / RECORD_FILE).write_text(json.dumps(saved))
    assert len(load_records(tmp_path)) == 3
    monkeypatch.setattr(records, "MAX_RECORDS", 2)
    with pytest.raises(ConfigError, match="has more than 2 records"):
        load_records(tmp_path)
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    monkeypatch.setattr(records, "MAX_BYTES", 2000)
    with pytest.raises(ConfigError, match=r"more than 0\.002 MB of them"):
        load_records(tmp_path)


def test_record_that_is_a_pipe_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "trials" / "0000"
    folder.mkdir(parents=True)
    os.mkfifo(folder / RECORD_FILE)
    assert load_records(tmp_path) == []
    assert "is a pipe or a device, not a file; the trial is left out" in caplog.text


INVALID_CACHES: dict[str, bytes] = {
    "a list": b"[]",
    "cards a list": b'{"about": {}, "cards": []}',
    "about numbers": b'{"about": {"a": 1}, "cards": {}}',
    "no cards": b'{"about": {}}',
    "torn": b'{"about": {}, "cards": {',
    "deep": b'{"about": {}, "cards": ' + b'{"a":' * 5000,
    "no text": b"\xff",
    "empty": b"",
}


@pytest.mark.parametrize("content", INVALID_CACHES.values(), ids=INVALID_CACHES.keys())
def test_invalid_score_cache_is_ignored(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CACHE_FILE).write_bytes(content)
    assert ScoreCache(tmp_path, {}).cards == {}
    (line,) = [entry.message for entry in caplog.records if entry.levelno == logging.WARNING]
    assert line.startswith(f"{tmp_path / CACHE_FILE}: ")
    assert line.endswith("; everything is scored again")
    assert len(line.splitlines()) == 1


def test_score_cache_that_is_a_pipe_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / CACHE_FILE)
    assert ScoreCache(tmp_path, {}).cards == {}
    assert "is a pipe or a device" in caplog.text


INVALID_CARDS: dict[str, Saved] = {
    "a unit that is a path": {"unit": "../../x"},
    "an epoch in words": {"epoch": "last"},
    "an epoch that is true": {"epoch": True},
    "an epoch of 10^30": {"epoch": 10**30},
    "scores a list": {"scores": []},
    "a score in words": {"scores": {"copying": "high"}},
    "probes in words": {"by_probe": {"copying": ["a"]}},
    "probes without end": {"by_probe": {"copying": [0.5] * 20_000}},
    "different probes": {"by_probe": {"prompt_fidelity": [0.5], "subject_fidelity": [0.5] * 2}},
    "notes that are one": {"notes": "a note"},
    "confidence beyond all": {"confidence": 2},
    "copies of words": {"copies": {"one": 1}},
    "copies in other digits": {"copies": {"²": 1}},
    "a failure that is a list": {"failure": []},
}


@pytest.mark.parametrize("change", INVALID_CARDS.values(), ids=INVALID_CARDS.keys())
def test_invalid_scorecard_is_ignored(
    tmp_path: Path, saved: Saved, change: Saved, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Only its checkpoint is scored again."""
    monkeypatch.setattr("evaluate.score_cache.key_of", lambda file: file.stem)
    card = saved["epochs"][0]["scorecard"]
    content = {"about": {}, "cards": {"good": card, "bad": {**card, **change}}}
    (tmp_path / CACHE_FILE).write_text(json.dumps(content))
    cache = ScoreCache(tmp_path, {})
    assert cache.find(Path("bad.safetensors")) is None
    assert "the scores of bad.safetensors are damaged (" in caplog.text
    card = cache.find(Path("good.safetensors"))
    assert card
    assert card.checkpoint == Path("good.safetensors")
