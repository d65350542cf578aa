"""A damaged record affects no other one: it is reported, and the study continues."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evaluate.config import PolicyConfig
from evaluate.selection.objective import FIDELITIES
from sweeper.commands import report as rewrite
from sweeper.commands import select
from sweeper.config import ReportConfig, SelectConfig
from sweeper.tracking.trial_record import (
    RECORD_FILE,
    TrialRecord,
    load_record,
    load_records,
    resume_record,
)
from tests.sweeper.conftest import SEARCH, SMALL, Swept, copy_sweep, finish
from tests.sweeper.study.test_budget import record
from train.errors import ConfigError

Saved = dict[str, Any]


def changed_json(change: Callable[[Saved], object]) -> Callable[[bytes], bytes]:
    """A damage that changes the record's JSON."""

    def damage(content: bytes) -> bytes:
        saved = json.loads(content)
        change(saved)
        return json.dumps(saved).encode()

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "not text": lambda content: b"\x80\x04\x95pickle",
    "a list": lambda content: b"[1, 2]",
    "deep": lambda content: b"[" * 100_000,
    "null": lambda content: b"null",
    "no params": changed_json(lambda saved: saved.pop("params")),
    "no epochs": changed_json(lambda saved: saved.pop("epochs")),
    "params a list": changed_json(lambda saved: saved.update(params=[1])),
    "number a text": changed_json(lambda saved: saved.update(number="one")),
    "an unknown state": changed_json(lambda saved: saved.update(state="resting")),
    "an epoch is null": changed_json(lambda saved: saved["epochs"].append(None)),
    "an epoch without a card": changed_json(lambda saved: saved["epochs"][0].pop("scorecard")),
    "a card without scores": changed_json(
        lambda saved: saved["epochs"][0]["scorecard"].pop("scores")
    ),
    "a score is a text": changed_json(
        lambda saved: saved["epochs"][0]["scorecard"]["scores"]["copying"].update(value="high")
    ),
    "seconds are no number": changed_json(
        lambda saved: saved["epochs"][0].update(seconds_training=float("nan"))
    ),
    "another epoch is selected": changed_json(lambda saved: saved.update(selected=77)),
    "of no length": changed_json(lambda saved: saved["tags"].update(epochs="many")),
}


@pytest.fixture
def study(swept: Swept, tmp_path: Path) -> Path:
    """A copy of the finished study with its own store."""
    return copy_sweep(swept, tmp_path / "mlruns", "artifacts") / "studies" / "small"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_report_and_select_skip_a_damaged_record(
    study: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file, root = study / "trials" / "0000" / RECORD_FILE, str(study.parent.parent)
    file.write_bytes(damage(file.read_bytes()))
    rewrite.main(ReportConfig(study="small", root=root))
    select.main(SelectConfig(study="small", root=root, selection=PolicyConfig(rule="last")))
    warnings = {entry.message for entry in caplog.records if "trial's record" in entry.message}
    (line,) = warnings
    assert line.startswith(f"{file} is not a trial's record: ")
    assert "\n" not in line
    assert line.endswith("; the trial is left out")
    assert "the LoRA to keep" in capsys.readouterr().out
    assert [remaining.number for remaining in load_records(study)] == [1]


def test_unknown_fields_and_non_finite_scores_are_ignored(study: Path) -> None:
    file = study / "trials" / "0000" / RECORD_FILE
    saved = json.loads(file.read_bytes())
    saved["a_field_of_tomorrow"] = 1
    saved["epochs"][0]["another"] = 2
    scores = saved["epochs"][0]["scorecard"]["scores"]
    nan_score, infinite_score = sorted(scores.keys() - {*FIDELITIES})[:2]
    scores[nan_score]["value"] = float("nan")
    scores[infinite_score]["high"] = float("inf")
    file.write_text(json.dumps(saved))
    first = load_record(file.parent).scorecards[0]
    assert not {nan_score, infinite_score} & set(first.scores)
    assert "subject_fidelity" in first.scores


def test_a_copy_of_a_trial_folder_is_ignored(study: Path) -> None:
    shutil.copytree(study / "trials" / "0000", study / "trials" / "0000 (copy)")
    assert [record.number for record in load_records(study)] == [0, 1]


@pytest.mark.parametrize("how", ["torn", "a folder", "gone with its folder"])
def test_the_sweep_retrains_a_trial_with_a_lost_record(study: Path, how: str) -> None:
    """Optuna knows that the trial has ended, but its record is lost."""
    root, file = study.parent.parent, study / "trials" / "0001" / RECORD_FILE
    original = load_record(file.parent)
    damage(file, how)
    (study / "result.json").write_text("{torn too")
    (study / "trials" / "0000" / "mlflow.json").write_text("torn as well")
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    assert "Traceback" not in output
    assert "continues: 1 of 2 trials finished" in output
    assert f"trial 1 had ended, but {file} is gone or damaged: it is retrained" in output
    assert "missing" not in output
    assert (f"{file} is not a trial's record" in output) == (not how.startswith("gone"))
    result = json.loads((study / "result.json").read_text())
    assert [trial["number"] for trial in result["trials"]] == [0, 1]
    retrained = load_record(file.parent)
    assert (retrained.params, retrained.state) == (original.params, original.state)
    losses = [epoch.train_loss for epoch in original.epochs]
    assert [epoch.train_loss for epoch in retrained.epochs] == pytest.approx(losses, rel=1e-4)
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert (code, "retrained" in output) == (0, False), output


@pytest.mark.parametrize("how", ["torn", "a folder", "gone", "gone with its folder"])
@pytest.mark.parametrize("number", [0, 1])
def test_missing_trials_are_reported(
    study: Path, how: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """`select` and `report` print them, and the result and the page list them."""
    root, file = str(study.parent.parent), study / "trials" / f"{number:04d}" / RECORD_FILE
    damage(file, how)
    for _ in range(2):
        select.main(SelectConfig(study="small", root=root, apply=True))
        rewrite.main(ReportConfig(study="small", root=root))
        output = capsys.readouterr().out
        line = f"trial {number} is missing from the result: {file} is gone or damaged; restore it"
        assert output.count(line) == 2, output
        assert line in (study / "report.html").read_text(encoding="utf-8")
        assert json.loads((study / "result.json").read_text())["missing"] == [number]


@pytest.mark.parametrize("how", ["gone", "torn", "a folder", "another"])
def test_commands_do_not_name_a_run_that_mlflow_has_lost(
    study: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands use the LoRA file or the trial's settings instead."""
    root, store = study.parent.parent, study.parent.parent / "mlflow.db"
    config = SelectConfig(study="small", root=str(root), apply=True)
    select.main(config)
    selected, root_argument = study / "best.safetensors", f" root={root}"
    output = capsys.readouterr().out
    number = json.loads((study / "result.json").read_text())["trial"]
    run_id = json.loads((study / "trials" / f"{number:04d}" / "mlflow.json").read_text())["run_id"]
    assert f"retrain it: python -m sweeper.reproduce run_id={run_id}{root_argument}\n" in output

    damage(store, how)
    if how == "another":
        with closing(sqlite3.connect(store)) as empty:
            empty.execute("CREATE TABLE runs (run_uuid TEXT)")
    select.main(config)
    assert f"retrain it: python -m sweeper.reproduce lora={selected}\n" in capsys.readouterr().out
    for file in (selected, *study.glob("trials/*/*.safetensors")):
        file.unlink()
    with pytest.raises(ConfigError) as caught:
        select.main(config)
    assert "run_id=" not in str(caught.value)
    assert "; python -m sweeper training.epochs=2 " in str(caught.value)


def damage(file: Path, how: str) -> None:
    """Damages or removes a file."""
    if how == "torn":
        file.write_bytes(b"{torn")
        return
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how == "gone with its folder":
        shutil.rmtree(file.parent)


def test_the_report_falls_back_to_the_current_folder(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (study / "report.html").unlink()
    (study / "report.html").mkdir()
    monkeypatch.chdir(tmp_path)
    rewrite.main(ReportConfig(study="small", root=str(study.parent.parent)))
    assert (tmp_path / "small-report.html").is_file()
    assert "report.html cannot be written" in caplog.text


def save_record(folder: Path, params: dict[str, Any]) -> TrialRecord:
    trial_record = record(0, 0.5)
    trial_record.folder, trial_record.params = folder, params
    trial_record.save()
    (folder / "lora-state.pt").write_bytes(b"state")
    return trial_record


def test_a_trial_with_a_damaged_record_starts_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise some epochs would have no scores. The damaged record is renamed."""
    save_record(tmp_path, {"network.rank": 2})
    (tmp_path / RECORD_FILE).write_bytes(b"{torn")
    assert resume_record(tmp_path, {"network.rank": 2}) is None
    (backup,) = tmp_path.glob(f"{RECORD_FILE}.*")
    assert backup.read_bytes() == b"{torn"
    assert not (tmp_path / "lora-state.pt").exists()
    assert "the trial starts over" in caplog.text
    assert resume_record(tmp_path, {"network.rank": 2}) is None, "it was renamed"


def test_a_record_of_other_settings_is_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This happens if somebody deletes the study's journal, but not the trial folders."""
    save_record(tmp_path, {"network.rank": 2})
    resumed = resume_record(tmp_path, {"network.rank": 2})
    assert resumed
    assert resumed.params == {"network.rank": 2}
    assert resume_record(tmp_path, {"network.rank": 4}) is None
    assert "belongs to a trial with other settings" in caplog.text


def test_a_deleted_selected_checkpoint(study: Path) -> None:
    """The study selects another trial, and prints how to retrain the deleted checkpoint."""
    root, result = study.parent.parent, json.loads((study / "result.json").read_text())
    best_trial = load_records(study)[result["trial"]]
    checkpoint = next(
        card for card in best_trial.scorecards if card.epoch == result["epoch"]
    ).checkpoint
    checkpoint.unlink()
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    assert json.loads((study / "result.json").read_text())["trial"] == result["trial"]
    assert (study / "best.safetensors").is_file(), "it has the same content"

    (study / "best.safetensors").unlink()
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert (code, "Traceback" in output) == (0, False), output
    assert f"trial {best_trial.number} would be selected, but {checkpoint} is gone" in output
    assert "python -m sweeper.reproduce run_id=" in output
    assert json.loads((study / "result.json").read_text())["trial"] == 1 - best_trial.number
    assert (study / "best.safetensors").is_file()

    content = (study / "best.safetensors").read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    assert f"trial {best_trial.number} would be selected, but {checkpoint} is damaged" in output
    assert (study / "best.safetensors").read_bytes() == content, "a damaged file is not used"

    for file in (study / "best.safetensors", *study.glob("trials/*/*.safetensors")):
        file.unlink()
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert (code, "Traceback" in output) == (0, False), output
    assert json.loads((study / "result.json").read_text())["run_id"] is None
    assert (study / "report.html").is_file()
