"""Wrong settings end in one line before anything is loaded; a store that is away stops nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from evaluate.config import RULES, PolicyConfig, check_policy
from evaluate.scorecard import Estimate, Scorecard
from sweeper.config import SweepConfig, check_sweep
from sweeper.record import Record, load_record
from sweeper.rules import memorised
from sweeper.tracker import Tracker
from tests.sweeper.conftest import finish
from train.command import preflight, settings
from train.trainer import Checkpoint

POLICY = PolicyConfig(limits={"pose_memorization": 0.35})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "network.rnk=4,8"], "network.rnk: there is no such setting; did you mean"),
        (["-m", "network.rank=4,abc"], "network.rank"),
        (["scheduler=cosin"], "did you mean cosine"),
        (["network.conv_rank=0", "network.conv_alpha=1"], "network.conv_alpha: needs"),
        (["study.name=a/b"], "study.name"),
        (["study.min_epoch=1"], "did you mean study.min_epochs"),
        (["-m", "hydra.sweeper.n_trial=3"], "did you mean hydra.sweeper.n_trials"),
        (["probes.steps=0"], "probes.steps"),
        (["+policy.limits.pose_memorisation=0.2"], "did you mean pose_memorization"),
        (
            ["probes.count=4"],
            "probes.count: with 4 fresh ones of 4 probes no checkpoint can be surely below",
        ),
    ],
)
def test_wrong_settings_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as end:
        preflight("sweep", arguments, SweepConfig, check_sweep)
    assert words in str(end.value)


@pytest.mark.parametrize(("budget", "count"), [("small", 16), ("default", 32), ("large", 96)])
def test_probe_sets_come_by_budget(budget: str, count: int) -> None:
    assert settings("sweep", SweepConfig, [f"probes={budget}"]).probes.count == count


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_a_policy_to_choose(rule: str) -> None:
    choice = "default" if rule == "overfit_aware" else rule
    policy = settings("sweep", SweepConfig, [f"policy={choice}", "policy.epoch=3"]).policy
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


def test_memorised_needs_a_row_of_sure_epochs() -> None:
    rule = memorised(POLICY, in_a_row=2, min_epochs=2)
    assert not rule([card(1, 0.6)])
    assert not rule([card(1, 0.6), card(2, 0.4), card(3, 0.6)])  # 0.4 may be chance
    assert "pose_memorization" in rule([card(1, 0.1), card(2, 0.5), card(3, 0.6)])


def test_store_that_was_away_gets_everything_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = tmp_path / "studies" / "away"
    record = Record(
        study / "trials/0000", "away", 0, {"network": {"rank": 4}}, ["network.rank=4"], {}, {}
    )
    record.folder.mkdir(parents=True)
    monkeypatch.setattr("sweeper.record.weights_hash", lambda path: "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = Tracker(tmp_path, study)
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            saved = Checkpoint(0, Path("-"), epoch, 0.1, 1e-3, last=False)
            record.add(card(epoch, 0.1), saved, Image.new("RGB", (8, 8)), (1.0, 1.0))
            away.mirror(record, POLICY)
    assert sum("MLflow is away" in line for line in caplog.messages) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    back = Tracker(tmp_path, study)
    back.mirror(load_record(record.folder), POLICY)
    client = MlflowClient(back.uri)
    history = client.get_metric_history(back.run_of(record).id_now, "scores/fidelity")
    assert [metric.step for metric in history] == [1, 2]
