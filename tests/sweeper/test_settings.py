"""Invalid settings end in one line before anything is loaded; an MLflow outage stops nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from mlflow import MlflowClient
from omegaconf import OmegaConf
from PIL import Image

from evaluate.config import RULES, PolicyConfig, check_policy
from evaluate.scorecard import Estimate, Scorecard
from sweeper.config import SweepConfig, check_sweep
from sweeper.execution import context
from sweeper.execution.early_stopping import (
    stop_on_memorization,
    stop_on_plateau,
    stop_without_learning,
)
from sweeper.search.conditional_params import is_active
from sweeper.search.samplers import make_sampler
from sweeper.search.search_space import identity, parse_space
from sweeper.study.trial_lease import suggest_all
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import Cost, TrialRecord, load_record
from tests.sweeper.conftest import finish
from train.cli.compose import settings
from train.cli.preflight import preflight
from train.config.schema import CONF
from train.errors import ConfigError
from train.loop.trainer import Checkpoint

SAMPLERS = sorted(file.stem for file in (CONF / "hydra/sweeper/sampler").iterdir())
POLICY = PolicyConfig(max={"pose_memorization": 0.35})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "network.rnk=4,8"], "network.rnk: there is no such setting; did you mean"),
        (["-m", "network.rank=4,abc"], "network.rank"),
        (["scheduler=cosin"], "did you mean cosine"),
        (["network.conv_rank=0", "network.conv_alpha=1"], "network.conv_alpha: needs"),
        (["study.name=a/b"], "study.name"),
        (["training.save_last=2"], "training.save_last: a sweep scores every checkpoint"),
        (["network.rank=321"], "network.rank: 321 must be from 1 to 320"),
        (["network.alpha=4", "network.alpha_ratio=0.5"], "network.alpha: is given by"),
        (["network.conv_alpha=4", "network.alpha_ratio=0.5"], "network.conv_alpha: is given by"),
        (
            ["scheduler=constant_with_warmup", "scheduler.warmup_steps=9"],
            "scheduler.warmup_steps: scheduler.warmup_ratio is given too",
        ),
        (["scheduler.warmup_epochs=-1"], "scheduler.warmup_epochs: -1.0 must be from 0 to"),
        (["scheduler=cosine_with_restart"], "did you mean cosine_with_restarts"),
        (["scores.pose_detector="], "scores.pose_detector: is empty; known: puppets"),
        (
            ["training.on_oom=degrad"],
            "training.on_oom: 'degrad' is not one of fail, degrade; did you mean",
        ),
        (["training.max_grad_norm=-1"], "training.max_grad_norm: -1.0 must be from 0 to"),
        (["training.min_snr_gamma=0"], "training.min_snr_gamma: 0.0 must be from 0.01 to"),
        (["training.max_steps=0"], "training.max_steps: 0 must be from 1 to 10000000"),
        (
            ["optimizer.weight_decay=-1"],
            "optimizer.weight_decay: -1 must be a number from 0",
        ),
        (["optimizer.weight_deca=1"], "did you mean optimizer.weight_decay"),
        (
            ["optimizer=prodigy", "network.text_encoder=true", "training.text_encoder_lr=0.5"],
            "training.text_encoder_lr: Prodigy estimates one step size for all",
        ),
        (["early_stop.memorization_patienc=1"], "did you mean early_stop.memorization_patience"),
        (["-m", "training.seed=int(range(0,3,0.5))"], "training.seed: "),
        (["-m", "scheduler=glob(cos*)", "network.rank=0"], "network.rank"),
        (["-m", "hydra.sweeper.n_trial=3"], "did you mean hydra.sweeper.n_trials"),
        (["probes.steps=0"], "probes.steps"),
        (["+selection.max.pose_memorizaton=0.2"], "did you mean pose_memorization"),
        (
            ["probes.count=4"],
            "probes.count: with 4 fresh ones of 4 probes no checkpoint can be within",
        ),
    ],
)
def test_wrong_settings_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        preflight("sweep", arguments, SweepConfig, check_sweep)
    assert message in str(end.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("probes.attributes=puppets_objekt", "there is no puppets_objekt.yaml; did you mean"),
        ("probes.file=none.yaml", "probes.file: there is no file none.yaml"),
        ("scores.pose_detector=mediapipe", "scores.pose_model: mediapipe needs"),
        ("scores.pose_model=a.task", "scores.pose_model: only mediapipe reads a.task"),
    ],
)
def test_files_of_the_scoring_are_refused_before_anything_is_loaded(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("load_dataset", "load_base"):
        monkeypatch.setattr(context, name, lambda config: pytest.fail("too late"))
    with pytest.raises(ConfigError, match=message):
        context.load_context(settings("sweep", SweepConfig, [argument]))


def test_a_search_may_contain_conditional_settings() -> None:
    arguments = ["-m", "network.conv_rank=0,4", "network.conv_alpha=1,2"]
    preflight("sweep", arguments, SweepConfig, check_sweep, is_active)
    with pytest.raises(SystemExit, match=r"network\.conv_alpha: needs"):
        preflight(
            "sweep",
            ["-m", "network.conv_rank=0", arguments[2]],
            SweepConfig,
            check_sweep,
            is_active,
        )


@pytest.mark.parametrize("pruner", sorted(file.stem for file in (CONF / "pruner").iterdir()))
def test_every_pruner_can_be_chosen(pruner: str) -> None:
    config = settings("sweep", SweepConfig, [f"pruner={pruner}"])
    study = optuna.create_study(direction="maximize", pruner=instantiate(config.pruner))
    for number in range(8):
        trial = study.ask()
        for epoch in range(1, 11):
            trial.report(1 - number / 8 - epoch / 1000, epoch)
            if trial.should_prune():
                break
        study.tell(trial, 1 - number / 8)
    shortest = min(len(trial.intermediate_values) for trial in study.trials)
    assert (shortest < 10) == (pruner != "none")


def test_the_default_pruner_keeps_slow_learners() -> None:
    """All are behind at the same epoch: one still rises, one has flattened, one has fallen."""
    pruner = instantiate(settings("sweep", SweepConfig, ["training.epochs=3"]).pruner)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    curves = {
        "best": [0.70, 0.78, 0.80],
        "slow": [0.50, 0.75, 0.79],
        "flat": [0.60, 0.61, 0.61],
        "falling": [0.79, 0.70, 0.60],
        "late": [0.10, 0.60, 0.61],  # behind, but at its last epoch nothing can be saved
    }
    stopped: dict[str, int] = {}
    for name, values in curves.items():
        trial = study.ask()
        for epoch, value in enumerate(values, 1):
            trial.report(value, epoch)
            if trial.should_prune():
                stopped.setdefault(name, epoch)
    assert stopped == {"flat": 2, "falling": 2}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_be_chosen(sampler: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("sweep", [f"hydra/sweeper/sampler={sampler}"], return_hydra_config=True)
    space, _ = parse_space(
        ["network.rank=2,4,8", "training.seed=1,2"], {}, OverridesParser.create()
    )
    study = optuna.create_study()
    identities = set()
    for number in range(6):
        config: Any = OmegaConf.to_container(composed.hydra.sweeper.sampler, resolve=True)
        study.sampler = make_sampler(config, number, space, study)
        trial = study.ask()
        suggest_all(trial, space)
        identities.add(identity(trial.params))
        study.tell(trial, 1.0)
    assert len(identities) == 6


@pytest.mark.parametrize(("budget", "count"), [("small", 16), ("default", 32), ("large", 96)])
def test_probe_sets_have_the_documented_sizes(budget: str, count: int) -> None:
    assert settings("sweep", SweepConfig, [f"probes={budget}"]).probes.count == count


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_selection_config(rule: str) -> None:
    choice = "default" if rule == "overfit_aware" else rule
    policy = settings("sweep", SweepConfig, [f"selection={choice}", "selection.epoch=3"]).selection
    assert policy.rule == rule
    check_policy(policy)


def test_wrong_settings_end_the_command(tmp_path: Path) -> None:
    code, output = finish(tmp_path, "sweeper", "-m", "hydra.sweeper.n_trials=0")
    assert code == 1
    assert "hydra.sweeper.n_trials" in output
    assert "Traceback" not in output
    assert not (tmp_path / "studies/puppets").exists()


def card(epoch: int, memory: float, checkpoint: Path = Path("-")) -> Scorecard:
    names = ("prompt_fidelity", "subject_fidelity")
    scores = {name: Estimate(0.8, 0.7, 0.9) for name in names}
    scores["pose_memorization"] = Estimate(memory, memory - 0.1, memory + 0.1)
    return Scorecard(checkpoint, epoch, scores, images=np.zeros((1, 8, 8, 3), np.uint8))


def test_memorization_rule_needs_consecutive_sure_epochs() -> None:
    rule = stop_on_memorization(POLICY, patience=2)
    assert not rule([card(1, 0.6)])
    assert not rule([card(1, 0.6), card(2, 0.4), card(3, 0.6)])  # 0.4 may be chance
    assert "pose_memorization" in rule([card(1, 0.1), card(2, 0.5), card(3, 0.6)])


def test_plateau_rule_stops_when_no_later_epoch_is_better() -> None:
    def make_card(epoch: int, fidelity: float, memory: float = 0.1) -> Scorecard:
        scorecard = card(epoch, memory)
        for name in ("prompt_fidelity", "subject_fidelity"):
            scorecard.scores[name] = Estimate(fidelity, fidelity - 0.01, fidelity + 0.01)
            scorecard.by_probe[name] = [fidelity - 0.01, fidelity + 0.01, fidelity]
        return scorecard

    rule = stop_on_plateau(POLICY, patience=2)
    better, best = [make_card(1, 0.7), make_card(2, 0.8)], make_card(3, 0.9)
    assert not rule([*better, make_card(3, 0.8)])
    assert not rule([*better, best, make_card(4, 0.9)])
    assert "better than epoch 3" in rule(
        [*better, best, make_card(4, 0.9), make_card(5, 0.95, memory=0.6)]
    )
    assert not stop_on_plateau(POLICY, patience=0)(
        [*better, best, make_card(4, 0.9), make_card(5, 0.9)]
    )


def test_no_learning_rule_needs_a_share_of_the_epochs() -> None:
    rule = stop_without_learning(0.5, epochs=4)
    learned, nothing = Estimate(0.1, 0.0, 0.2), Estimate(0.05, 0.0, 0.1)

    def reason_at(epoch: int, likeness: Estimate) -> str:
        scorecard = card(epoch, 0.1)
        scorecard.scores["subject_fidelity"] = likeness
        return rule([scorecard])

    assert not reason_at(1, nothing)
    assert not reason_at(2, learned)  # it may have learned something
    assert "subject_fidelity is at most 0.10" in reason_at(2, nothing)


def test_an_unreachable_store_catches_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = tmp_path / "studies" / "away"
    settings = {"network": {"rank": 4}, "long": "word " * 2000}
    tags = {"long": "x" * 9000}
    record = TrialRecord(study / "trials/0000", "away", 0, settings, ["network.rank=4"], {}, tags)
    record.folder.mkdir(parents=True)
    monkeypatch.setattr("sweeper.tracking.trial_record.weights_hash", lambda path: "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    unreachable = MlflowMirror(tmp_path, study)
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            saved = Checkpoint(0, Path("-"), epoch, 0.1, 1e-3, None, 4, last=False)
            record.add(card(epoch, 0.1), saved, Image.new("RGB", (8, 8)), Cost(1.0, 1.0))
            unreachable.mirror(record, POLICY)
            unreachable.flush()
    batches: list[int] = []
    log_batch = MlflowClient.log_batch

    def count_batch(client: MlflowClient, *arguments: Any, **entries: Any) -> None:
        batches.append(len(entries.get("metrics", ())))
        log_batch(client, *arguments, **entries)

    monkeypatch.setattr(MlflowClient, "log_batch", count_batch)
    assert sum("MLflow is unavailable" in line for line in caplog.messages) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    mirror = MlflowMirror(tmp_path, study)
    mirror.mirror(load_record(record.folder), POLICY)
    mirror.flush()
    client = MlflowClient(mirror.uri)
    run_id = mirror.run_for(record).saved_id
    history = client.get_metric_history(run_id, "scores/fidelity")
    assert [metric.step for metric in history] == [1, 2]
    assert len([size for size in batches if size]) == 1, (
        "everything that was missed is logged in one batch"
    )
    data = client.get_run(run_id).data
    for kind, value, text in (
        ("params", data.params["long"], settings["long"]),
        ("tags", data.tags["long"], tags["long"]),
    ):
        assert value == f"its {len(text)} characters are in the artifact {kind}/long.txt"
        file = client.download_artifacts(run_id, f"{kind}/long.txt", str(tmp_path))
        assert Path(file).read_text() == text
