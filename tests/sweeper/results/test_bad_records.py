"""A record that is damaged takes no other along: it is named, and the study goes on."""

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
from tests.sweeper.conftest import SEARCH, SMALL, Swept, copied, finish
from tests.sweeper.study.test_budget import record
from train.errors import ConfigError

Saved = dict[str, Any]


def text_of(change: Callable[[Saved], object]) -> Callable[[bytes], bytes]:
    """The record with something changed in it."""

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
    "no params": text_of(lambda saved: saved.pop("params")),
    "no epochs": text_of(lambda saved: saved.pop("epochs")),
    "params a list": text_of(lambda saved: saved.update(params=[1])),
    "number a text": text_of(lambda saved: saved.update(number="one")),
    "an unknown state": text_of(lambda saved: saved.update(state="resting")),
    "an epoch is null": text_of(lambda saved: saved["epochs"].append(None)),
    "an epoch without a card": text_of(lambda saved: saved["epochs"][0].pop("scorecard")),
    "a card without scores": text_of(lambda saved: saved["epochs"][0]["scorecard"].pop("scores")),
    "a score is a text": text_of(
        lambda saved: saved["epochs"][0]["scorecard"]["scores"]["copying"].update(value="high")
    ),
    "seconds are no number": text_of(
        lambda saved: saved["epochs"][0].update(seconds_training=float("nan"))
    ),
    "another epoch is selected": text_of(lambda saved: saved.update(selected=77)),
    "of no length": text_of(lambda saved: saved["tags"].update(epochs="many")),
}


@pytest.fixture
def study(swept: Swept, tmp_path: Path) -> Path:
    """A copy of the finished study, with a store of its own."""
    return copied(swept, tmp_path / "mlruns", "artifacts") / "studies" / "small"


@pytest.mark.parametrize("changed", DAMAGES.values(), ids=DAMAGES.keys())
def test_report_and_select_go_on_without_it(
    study: Path, changed: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file, root = study / "trials" / "0000" / RECORD_FILE, str(study.parent.parent)
    file.write_bytes(changed(file.read_bytes()))
    rewrite.main(ReportConfig(study="small", root=root))
    select.main(SelectConfig(study="small", root=root, selection=PolicyConfig(rule="last")))
    said = {entry.message for entry in caplog.records if "no record" in entry.message}
    (line,) = said
    assert line.startswith(f"{file} is not a trial's record: ")
    assert "\n" not in line
    assert line.endswith("; the trial is left out")
    assert "the LoRA to keep" in capsys.readouterr().out
    assert [left.number for left in load_records(study)] == [1]


def test_what_another_version_adds_and_scores_without_a_number_do_no_harm(study: Path) -> None:
    file = study / "trials" / "0000" / RECORD_FILE
    saved = json.loads(file.read_bytes())
    saved["a_field_of_tomorrow"] = 1
    saved["epochs"][0]["another"] = 2
    scores = saved["epochs"][0]["scorecard"]["scores"]
    one, other = sorted(scores.keys() - {*FIDELITIES})[:2]
    scores[one]["value"] = float("nan")
    scores[other]["high"] = float("inf")
    file.write_text(json.dumps(saved))
    first = load_record(file.parent).scorecards[0]
    assert not {one, other} & set(first.scores)
    assert "subject_fidelity" in first.scores


def test_a_copy_of_a_trials_folder_is_no_trial(study: Path) -> None:
    shutil.copytree(study / "trials" / "0000", study / "trials" / "0000 (copy)")
    assert [one.number for one in load_records(study)] == [0, 1]


@pytest.mark.parametrize("how", ["torn", "a folder", "gone with its folder"])
def test_the_sweep_trains_again_what_has_lost_its_result(study: Path, how: str) -> None:
    """Optuna has the trial as ended; what its folder lacks is said and made anew."""
    root, file = study.parent.parent, study / "trials" / "0001" / RECORD_FILE
    before = load_record(file.parent)
    damage(file, how)
    (study / "result.json").write_text("{torn too")
    (study / "trials" / "0000" / "mlflow.json").write_text("torn as well")
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    assert "Traceback" not in output
    assert "continues: 1 of 2 trials is finished" in output
    assert f"trial 1 had ended, but {file} is gone or damaged: it is retrained" in output
    assert "missing" not in output
    assert (f"{file} is not a trial's record" in output) == (not how.startswith("gone"))
    result = json.loads((study / "result.json").read_text())
    assert [trial["number"] for trial in result["trials"]] == [0, 1]
    again = load_record(file.parent)
    assert (again.params, again.state) == (before.params, before.state)
    losses = [epoch.train_loss for epoch in before.epochs]
    assert [epoch.train_loss for epoch in again.epochs] == pytest.approx(losses, rel=1e-4)
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert (code, "trained again" in output) == (0, False), output


@pytest.mark.parametrize("how", ["torn", "a folder", "gone", "gone with its folder"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_trial_that_lost_its_result_is_named(
    study: Path, how: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """By select, by the report and on its page; select writes a result, and forgets nothing."""
    root, file = str(study.parent.parent), study / "trials" / f"{number:04d}" / RECORD_FILE
    damage(file, how)
    for _ in range(2):
        select.main(SelectConfig(study="small", root=root, apply=True))
        rewrite.main(ReportConfig(study="small", root=root))
        said = capsys.readouterr().out
        line = f"trial {number} is missing from the result: {file} is gone or damaged; restore it"
        assert said.count(line) == 2, said
        assert line in (study / "report.html").read_text(encoding="utf-8")
        assert json.loads((study / "result.json").read_text())["missing"] == [number]


@pytest.mark.parametrize("how", ["gone", "torn", "a folder", "another"])
def test_a_run_that_the_store_has_no_more_is_not_advised(
    study: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The LoRA file and the trial's own settings do without MLflow."""
    root, store = study.parent.parent, study.parent.parent / "mlflow.db"
    config = SelectConfig(study="small", root=str(root), apply=True)
    select.main(config)
    pick, place = study / "best.safetensors", f" root={root}"
    said = capsys.readouterr().out
    number = json.loads((study / "result.json").read_text())["trial"]
    run_id = json.loads((study / "trials" / f"{number:04d}" / "mlflow.json").read_text())["run_id"]
    assert f"retrain it: python -m sweeper.reproduce run_id={run_id}{place}\n" in said

    damage(store, how)
    if how == "another":
        with closing(sqlite3.connect(store)) as empty:
            empty.execute("CREATE TABLE runs (run_uuid TEXT)")
    select.main(config)
    assert f"retrain it: python -m sweeper.reproduce lora={pick}\n" in capsys.readouterr().out
    for file in (pick, *study.glob("trials/*/*.safetensors")):
        file.unlink()
    with pytest.raises(ConfigError) as caught:
        select.main(config)
    assert "run_id=" not in str(caught.value)
    assert "; python -m sweeper training.epochs=2 " in str(caught.value)


def damage(file: Path, how: str) -> None:
    """What happens to a record."""
    if how == "torn":
        file.write_bytes(b"{torn")
        return
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how == "gone with its folder":
        shutil.rmtree(file.parent)


def test_a_report_is_written_elsewhere_where_the_study_takes_none(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (study / "report.html").unlink()
    (study / "report.html").mkdir()
    monkeypatch.chdir(tmp_path)
    rewrite.main(ReportConfig(study="small", root=str(study.parent.parent)))
    assert (tmp_path / "small-report.html").is_file()
    assert "report.html cannot be written" in caplog.text


def saved(folder: Path, params: dict[str, Any]) -> TrialRecord:
    one = record(0, 0.5)
    one.folder, one.params = folder, params
    one.save()
    (folder / "lora-state.pt").write_bytes(b"state")
    return one


def test_a_trial_with_a_bad_record_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of its epochs some would have no scores; what cannot be read stays, under another name."""
    saved(tmp_path, {"network.rank": 2})
    (tmp_path / RECORD_FILE).write_bytes(b"{torn")
    assert resume_record(tmp_path, {"network.rank": 2}) is None
    (aside,) = tmp_path.glob(f"{RECORD_FILE}.*")
    assert aside.read_bytes() == b"{torn"
    assert not (tmp_path / "lora-state.pt").exists()
    assert "the trial starts over" in caplog.text
    assert resume_record(tmp_path, {"network.rank": 2}) is None, "it is gone"


def test_a_record_of_other_settings_is_not_taken_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after somebody has deleted the study's journal, but not the folders of its trials."""
    saved(tmp_path, {"network.rank": 2})
    found = resume_record(tmp_path, {"network.rank": 2})
    assert found
    assert found.params == {"network.rank": 2}
    assert resume_record(tmp_path, {"network.rank": 4}) is None
    assert "belongs to a trial with other settings" in caplog.text


def test_a_pick_that_somebody_removed(study: Path) -> None:
    """The study concludes with the best of the others, and says how to bring it back."""
    root, result = study.parent.parent, json.loads((study / "result.json").read_text())
    pick = load_records(study)[result["trial"]]
    lost = next(card for card in pick.scorecards if card.epoch == result["epoch"]).checkpoint
    lost.unlink()
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    assert json.loads((study / "result.json").read_text())["trial"] == result["trial"]
    assert (study / "best.safetensors").is_file(), "it is the same, so nothing is lost"

    (study / "best.safetensors").unlink()
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert (code, "Traceback" in output) == (0, False), output
    assert f"trial {pick.number} would be selected, but {lost} is gone" in output
    assert "python -m sweeper.reproduce run_id=" in output
    assert json.loads((study / "result.json").read_text())["trial"] == 1 - pick.number
    assert (study / "best.safetensors").is_file()

    best = (study / "best.safetensors").read_bytes()
    lost.write_bytes(best[: len(best) // 2])
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    assert f"trial {pick.number} would be selected, but {lost} is damaged" in output
    assert (study / "best.safetensors").read_bytes() == best, "a damaged file is no result"

    for file in (study / "best.safetensors", *study.glob("trials/*/*.safetensors")):
        file.unlink()
    code, output = finish(root, "sweeper", *SEARCH, *SMALL)
    assert (code, "Traceback" in output) == (0, False), output
    assert json.loads((study / "result.json").read_text())["run_id"] is None
    assert (study / "report.html").is_file()
