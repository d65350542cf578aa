"""The final of a study: it decides, it is held once, and a crash in it loses nothing."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from selenium.webdriver import Chrome

from evaluate.selection.objective import comparison_value
from evaluate.variants.lora_file import averaged
from evaluate.verdict_file import VERDICT_FILE, load_final
from sweeper.results.checkpoint_files import REPORT_FILE, RESULT_FILE, SELECTED_FILE
from sweeper.tracking.trial_record import load_records
from tests.sweeper.conftest import (
    SEARCH,
    SMALL,
    Swept,
    copy_sweep,
    finish,
    run_module,
    send_signal_at,
)
from tests.sweeper.results.test_report import open_report
from train.config.schema import BaseConfig
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import weights_hash
from train.models.base_model import load_base

# limits that three steps of training are within
LOOSE = (
    "selection.max={pose_memorization:0.9,background_leak:0.9,outfit_leak:0.9,copying:0.9}",
    "selection.min={prompt_fidelity:0.3}",
)
FINAL = ("final.contenders=3", "final.probes=16", "final.rounds=2", *LOOSE)
COMMAND = (*SEARCH, *SMALL, *FINAL)


def result_of(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "studies" / "small" / RESULT_FILE).read_text())
    return content


def in_one_line(output: str) -> str:
    """The output with single spaces instead of line breaks."""
    return " ".join(output.split())


@pytest.fixture(scope="module")
def decided(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished study that has had its final later, with the output of that."""
    root = copy_sweep(swept, tmp_path_factory.mktemp("final") / "mlruns")
    code, output = finish(root, "sweeper", *COMMAND)
    assert code == 0, output
    return root, output


def test_final_decides_and_its_fresh_scores_are_reported(
    decided: tuple[Path, str], browser: Chrome
) -> None:
    root, output = decided
    study, result = root / "studies" / "small", result_of(root)
    saved = load_final(study / VERDICT_FILE)
    assert saved
    assert "checkpoints on fresh probes" in output
    winner = next(
        f for f in saved.finalists if (f.trial, f.first.epoch) == (result["trial"], result["epoch"])
    )
    for name in ("prompt_fidelity", "pose_memorization"):
        assert result["scores"][name] == winner.final.scores[name].value
    record = load_records(study)[result["trial"]]
    epoch = next(e for e in record.epochs if e.scorecard.epoch == result["epoch"])
    assert weights_hash(study / SELECTED_FILE) == epoch.weights
    assert result["scores"]["validation_loss"] == epoch.scorecard.scores["validation_loss"].value
    verdict = result["verdict"]
    assert 0 <= verdict["probability"] <= 1
    assert verdict["runner_up"]["behind"] >= -verdict["tolerance"]
    assert {"pose_memorization", "copying", "prompt_fidelity"} <= verdict["limits"].keys()
    text = open_report(browser, study / REPORT_FILE)
    for sentence in result["reasons"]:
        assert sentence in text
        assert sentence in in_one_line(output)
    assert "The final: the best checkpoints on fresh prompts" in text
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment
    (parent,) = client.search_runs([experiment.experiment_id], "run_name = 'sweep small'")
    tags = parent.data.tags
    assert float(tags["final.probability"]) == pytest.approx(verdict["probability"], abs=1e-3)
    assert tags["final.runner_up"] == f"trial {verdict['runner_up']['trial']}, epoch " + str(
        verdict["runner_up"]["epoch"]
    )
    assert float(tags["final.limits.copying"]) == pytest.approx(verdict["limits"]["copying"], 1e-2)
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert VERDICT_FILE in names


def test_unchanged_final_is_not_held_again(decided: tuple[Path, str]) -> None:
    root, _ = decided
    file = root / "studies" / "small" / VERDICT_FILE
    before, result = file.read_bytes(), result_of(root)
    code, output = finish(root, "sweeper", *COMMAND)
    assert code == 0, output
    assert "generates" not in output
    assert file.read_bytes() == before
    assert result_of(root) == result


def test_saved_final_is_decided_again_under_other_limits(
    decided: tuple[Path, str], tmp_path: Path
) -> None:
    root, _ = decided
    saved = load_final(root / "studies" / "small" / VERDICT_FILE)
    assert saved
    code, output = run_module("sweeper.select", "study=small", *LOOSE, f"root={root}")
    assert code == 0, output
    assert result_of(root)["reasons"][0] in in_one_line(output)
    code, output = run_module(
        "sweeper.select", "study=small", "selection.max={pose_memorization:-1}", f"root={root}"
    )
    assert code == 0, output
    assert "no checkpoint of any trial is within all limits" in in_one_line(output)
    code, output = run_module("sweeper.select", "study=small", "selection=last", f"root={root}")
    assert code == 0, output
    assert "the final" not in output


def test_former_final_does_not_decide_a_result_without_one(
    swept: Swept, decided: tuple[Path, str], tmp_path: Path, browser: Chrome
) -> None:
    root = copy_sweep(replace(swept, root=decided[0]), tmp_path / "mlruns")
    study = root / "studies" / "small"
    without_final = ("sweeper", *SEARCH, *SMALL, *LOOSE, f"study.root={root}")
    for command in without_final, ("sweeper.report", "study=small", f"root={root}"):
        code, output = run_module(*command)
        assert code == 0, output
        assert result_of(root)["verdict"] is None
        assert "on fresh prompts" not in open_report(browser, study / REPORT_FILE)
    assert load_final(study / VERDICT_FILE), "other selections may use it"


def test_replay_shows_the_course_of_the_final(decided: tuple[Path, str]) -> None:
    root, _ = decided
    saved = load_final(root / "studies" / "small" / VERDICT_FILE)
    assert saved
    code, output = run_module(
        "sweeper.select", "study=small", "replay=true", *LOOSE, f"root={root}"
    )
    assert code == 0, output
    table = output.partition("the final, round by round")[2]
    longest = max(saved.finalists, key=lambda finalist: len(finalist.cards))
    for number, card in enumerate(longest.cards, start=1):
        assert f"round {number}" in table
        assert f"{len(card.by_probe['subject_fidelity'])} probes" in table
    for finalist in saved.finalists:
        if finalist.cards:
            assert f"trial {finalist.trial}, epoch {finalist.first.epoch}" in table
            assert f"{comparison_value(finalist.cards[0]):.3f}" in table
    code, output = run_module(
        "sweeper.select", "study=small", "replay=true", "selection=last", f"root={root}"
    )
    assert code == 1
    assert "replay: small has no final that decides by this policy" in output


def test_weaker_average_wins_and_is_the_file_to_keep(
    swept: Swept, tmp_path: Path, browser: Chrome
) -> None:
    """Only averages at strength 0.5 may be kept."""
    root = copy_sweep(swept, tmp_path / "mlruns")
    allowed = ("selection.strengths=[0.5]", "selection.averages=[2]")
    code, output = finish(root, "sweeper", *COMMAND, *allowed)
    assert code == 0, output
    study, result = root / "studies" / "small", result_of(root)
    assert (result["strength"], result["averaged"], result["epoch"]) == (0.5, 2, 2)
    label = "the average of 2 checkpoints up to epoch 2 at strength 0.5"
    assert label in in_one_line(output)
    record = load_records(study)[result["trial"]]
    base = load_base(BaseConfig(device="cpu"))
    epochs = [load_checkpoint(card.checkpoint, base.adapters) for card in record.scorecards]
    best, expected = load_checkpoint(study / SELECTED_FILE, base.adapters), averaged(epochs, 0.5)
    for key, (down, up) in expected.matrices.items():
        change = up.flatten(1) @ down.flatten(1) * (expected.alpha[key] / len(down))
        kept = best.up[key].flatten(1) @ best.down[key].flatten(1)
        kept *= best.alpha[key] / len(best.down[key])
        assert (kept - change).norm() <= 3e-3 * change.norm()
    text = open_report(browser, study / REPORT_FILE)
    assert f"trial {result['trial']}, {label}".casefold() in " ".join(text.split()).casefold()
    assert len(browser.find_elements("css selector", "#selected .collage img")) >= 2
    trains = "It trains the epochs that the selected file"
    assert trains in browser.find_element("css selector", "#retrain").text
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    champion = client.get_model_version_by_alias("small", "champion")
    assert (champion.tags["strength"], champion.tags["averaged"]) == ("0.5", "2")
    moved = tmp_path / "moved"
    root.rename(moved)
    select = ("sweeper.select", "study=small", *LOOSE, f"root={moved}")
    code, output = run_module(*select, *allowed)
    assert code == 0, output
    assert "it is the study's best.safetensors already" in output
    code, output = run_module(*select)
    assert code == 0, output
    assert "at strength" not in output, "strength 1 alone is allowed"
    for file in (moved / "studies" / "small" / "variants").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    selected = moved / "studies" / "small" / SELECTED_FILE
    before = selected.read_bytes()
    code, output = run_module(*select, *allowed, "apply=true")
    assert code == 0, output
    assert selected.read_bytes() == before, "it is that variant"
    selected.write_bytes(before[:-1] + b"x")
    code, output = run_module(*select, *allowed, "apply=true")
    assert code == 1
    assert "is gone or damaged; the command of the study makes it again" in in_one_line(output)


def test_killed_final_is_held_by_the_same_command(
    decided: tuple[Path, str], swept: Swept, tmp_path: Path
) -> None:
    root = copy_sweep(swept, tmp_path / "mlruns")
    _, output = send_signal_at(root, "on fresh probes", signal.SIGKILL, *COMMAND)
    assert not (root / "studies" / "small" / VERDICT_FILE).exists(), output
    code, output = finish(root, "sweeper", *COMMAND)
    assert code == 0, output
    assert result_of(root)["verdict"] == result_of(decided[0])["verdict"]
