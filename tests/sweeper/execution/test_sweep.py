"""The results of a sweep, and how it continues after a crash."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

from mlflow import MlflowClient
from optuna.trial import TrialState
from PIL import Image

from evaluate.selection.objective import fidelity
from sweeper.study.storage import NO_PRUNER, open_study
from sweeper.tracking.trial_record import FAILED, STOPPED, load_records
from tests.sweeper.conftest import (
    SEARCH,
    SMALL,
    Swept,
    copy_sweep,
    finish,
    run_module,
    send_signal_at,
)
from train.lora.checkpoint_file import weights_hash


def test_files_of_a_finished_study(swept: Swept) -> None:
    result = json.loads((swept.study / "result.json").read_text())
    records = load_records(swept.study)
    assert [trial["params"] for trial in result["trials"]] == [r.params for r in records]
    assert {record.params["network.rank"] for record in records} == {2, 4}
    assert [trial["epochs"] for trial in result["trials"]] == [2, 2]
    assert len(result["reasons"]) == 3
    assert "learned hardly anything" in result["reasons"][-1], "as three steps teach nothing"
    assert {"prompt_fidelity", "subject_fidelity", "pose_memorization"} <= set(result["scores"])
    best = records[result["trial"]]
    selected = next(e for e in best.epochs if e.scorecard.epoch == result["epoch"])
    assert weights_hash(swept.study / "best.safetensors") == selected.weights
    with Image.open(swept.study / "overview.png") as image:
        assert image.width > 1000
    assert "Traceback" not in swept.output
    assert swept.output.count("epoch  ") >= 4  # one line per scored epoch


def test_mlflow_of_a_finished_study(swept: Swept) -> None:
    client = MlflowClient(f"sqlite:///{swept.root}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {"sweep small", "trial 0", "trial 1"} <= set(runs)  # other tests may have added runs
    parent = runs["sweep small"].info.run_id
    result = json.loads((swept.study / "result.json").read_text())
    for trial in result["trials"]:
        run = client.get_run(trial["run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.params["network.rank"] == str(trial["params"]["network.rank"])
        history = client.get_metric_history(trial["run_id"], "scores/prompt_fidelity")
        assert [metric.step for metric in history] == [1, 2]
        assert "scores/bounds/prompt_fidelity_low" in run.data.metrics
        assert "train/loss" in run.data.metrics
        assert run.data.tags["diagnosis"]
        names = {artifact.path for artifact in client.list_artifacts(trial["run_id"])}
        checkpoint = f"checkpoint-{run.data.tags['selected_epoch']:0>6}"
        assert {checkpoint, "config.yaml", "overrides.yaml", "images"} <= names
        assert {"preset", "git.commit", "data.fingerprint", "base.fingerprint", "version.torch",
                "pack", "state", "reason"} <= set(run.data.tags)  # fmt: skip
        assert {"train/lr", "system/peak_memory_gigabytes", "system/training_seconds",
                "system/training_images_per_second",
                "system/probe_images_per_second"} <= set(run.data.metrics)  # fmt: skip
        assert run.data.metrics["system/training_images_per_second"] > 1
        candidate = client.get_model_version_by_alias("small", f"candidate-{trial['number']}")
        assert candidate.run_id == trial["run_id"]
        images = client.list_artifacts(trial["run_id"], "images")
        matches = [re.search(r"contact_sheet.step.(\d+)", image.path) for image in images]
        steps = {int(match.group(1)) for match in matches if match}
        assert steps == {0, 1, 2}, "that of the base without a LoRA, and each epoch's"
    names = {artifact.path for artifact in client.list_artifacts(parent)}
    assert {"best.safetensors", "result.json", "overview.png", "data.txt", "images"} <= names
    best = client.get_metric_history(parent, "study/best_fidelity_by_trials")
    assert [metric.step for metric in best] == [1, 2]
    assert best[-1].value == result["fidelity"]
    assert client.get_model_version_by_alias("small", "champion").run_id == result["run_id"]


def test_a_killed_sweep_ends_like_an_uninterrupted_one(swept: Swept, fresh: Path) -> None:
    code, output = send_signal_at(fresh, "epoch  1/2", signal.SIGINT, *SEARCH, *SMALL)
    assert code == 130, output
    assert "finishing this epoch" in output
    assert "run the same command again to continue the study" in output
    assert "Traceback" not in output
    code, _ = send_signal_at(fresh, "trial 0  epoch  2/2", signal.SIGKILL, *SEARCH, *SMALL)
    assert code == -signal.SIGKILL
    with (fresh / "studies/small/optuna.journal").open("ab") as journal:
        journal.write(b'{"op_code": 8, "torn')  # as if it had crashed in the middle of a write
    code, output = finish(fresh, "sweeper", *SEARCH, *SMALL)
    assert code == 0, output
    expected, records = load_records(swept.study), load_records(fresh / "studies/small")
    assert [r.params for r in records] == [r.params for r in expected]
    for record, other in zip(records, expected, strict=True):
        assert [e.weights for e in record.epochs] == [e.weights for e in other.epochs]
        assert record.state == other.state
    client = MlflowClient(f"sqlite:///{fresh}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["sweep small", "trial 0", "trial 1"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_trial_that_crashes_its_process_fails_alone(fresh: Path) -> None:
    """It crashes with its pack twice, then alone. The other trial is stopped after its second
    epoch by a lower limit that nothing reaches, and loses nothing."""
    command = (
        "-m", "optimizer.lr=1.0,1e-3",
        "optimizer._target_=tests.sweeper.crashing_optimizer.CrashingSGD",
        "~optimizer.weight_decay", "~optimizer.betas", "study.name=crashing", *SMALL,
        "training.epochs=3", "selection.min.prompt_fidelity=2", "hydra.sweeper.objective=pareto",
    )  # fmt: skip
    codes: list[int] = []
    while (ended := finish(fresh, "sweeper", *command))[0] and len(codes) < 4:
        codes.append(ended[0])
    assert codes == [1, 1, 1], ended[1]
    study = fresh / "studies" / "crashing"
    by_lr = {record.params["optimizer.lr"]: record for record in load_records(study)}
    crashed, stopped = by_lr[1.0], by_lr[1e-3]
    assert (crashed.state, crashed.reason) == (FAILED, "its process crashed 3 times")
    row = rf"│ +{crashed.number} │ .*failed: its process crashed 3 times"
    assert re.search(row, ended[1]), ended[1]
    assert (stopped.state, len(stopped.epochs)) == (STOPPED, 2)
    assert stopped.reason.startswith("overfitted: prompt_fidelity is below its minimum")
    optuna_trial = open_study(study, NO_PRUNER).trials[stopped.number]
    selected = next(card for card in stopped.scorecards if card.epoch == stopped.selected)
    assert optuna_trial.state == TrialState.COMPLETE
    assert optuna_trial.values == [fidelity(selected), selected.scores["pose_memorization"].value]
    assert optuna_trial.constraints["prompt_fidelity"] > 0
    assert selected.checkpoint.is_file()
    assert "MLflow is away" not in ended[1]


def test_finished_study_refuses_other_settings(swept: Swept) -> None:
    code, output = finish(swept.root, "sweeper", *SEARCH, *SMALL, "training.seed=1")
    assert code == 1
    assert "training.seed=0" in output
    assert "study.name=small-2" in output
    assert "Traceback" not in output


def test_select_with_another_policy(swept: Swept, tmp_path: Path) -> None:
    before = (swept.study / "result.json").read_bytes()
    code, output = run_module("sweeper.select", "study=small", "selection=epoch",
                              "selection.epoch=1", f"root={swept.root}")  # fmt: skip
    assert code == 0, output
    assert "Epoch 1 was selected because it was asked for" in output
    assert (swept.study / "result.json").read_bytes() == before
    code, output = run_module("sweeper.select", "study=smal", f"root={swept.root}")
    assert (code, output.count("\n")) == (1, 1), output
    assert "did you mean small" in output

    for part in ("mlflow.db", "artifacts"):  # a machine that has only MLflow's store
        source = swept.root / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / part)
    code, output = run_module("sweeper.select", "study=small", "selection=last", f"root={tmp_path}")
    assert code == 0, output
    assert "Epoch 2 was selected because it is the last one" in output


def test_an_applied_selection_becomes_the_champion(swept: Swept, tmp_path: Path) -> None:
    root = copy_sweep(swept, tmp_path / "mlruns")
    code, output = run_module("sweeper.select", "study=small", "selection=epoch",
                              "selection.epoch=1", "apply=true", f"root={root}")  # fmt: skip
    assert code == 0, output
    result = json.loads((root / "studies/small/result.json").read_text())
    assert (result["policy"], result["epoch"]) == ("epoch", 1)
    code, output = run_module("sweeper.select", "study=small", "selection=epoch",
                              "selection.epoch=1", f"root={root}")  # fmt: skip
    assert "it is the study's best.safetensors already" in output
    code, output = run_module("sweeper.select", "study=small", "selection=last", f"root={root}")
    assert "apply=true makes it the study's best.safetensors" in output
    record = load_records(root / "studies/small")[result["trial"]]
    assert record.selected == 1
    weights = next(e.weights for e in record.epochs if e.scorecard.epoch == 1)
    assert weights_hash(root / "studies/small/best.safetensors") == weights
    (record.folder / "lora-000001.safetensors").unlink()  # as study.keep_checkpoints=best does
    code, output = run_module("sweeper.select", "study=small", "selection=epoch",
                              "selection.epoch=1", "apply=true", f"root={root}")  # fmt: skip
    assert code == 0, "the study's best.safetensors is the same"
    (root / "studies/small/best.safetensors").unlink()
    code, output = run_module("sweeper.select", "study=small", "selection=epoch",
                              "selection.epoch=1", "apply=true", f"root={root}")  # fmt: skip
    assert code == 1
    assert "is gone" in output
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    champion = client.get_model_version_by_alias("small", "champion")
    assert (champion.run_id, champion.tags["epoch"]) == (result["run_id"], "1")
    # what sweeper.reproduce compares with
    logged = client.download_artifacts(result["run_id"], "scorecards.json", str(tmp_path))
    assert json.loads(Path(logged).read_text())["selected"] == 1
