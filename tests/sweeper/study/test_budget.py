"""The budget of a study, its first trials, and when it gives up a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from evaluate.config import PolicyConfig
from evaluate.scorecard import Estimate, Scorecard
from sweeper.config import OBJECTIVES, BudgetConfig, StudyConfig, SweepConfig
from sweeper.execution.search_setup import initial_settings
from sweeper.search.search_space import Params, Space, parse_space
from sweeper.study.budget import budget_exhausted
from sweeper.study.storage import NO_PRUNER
from sweeper.study.study import Study, begin_study, best_settings
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    IN_PROGRESS_FILE,
    INTERRUPTED,
    RUNNING,
    ScoredEpoch,
    TrialRecord,
)
from train.errors import ConfigError

POLICY = PolicyConfig()
PARTS: dict[str, Any] = {"space": Space(()), "sampler": {}, "pruner": NO_PRUNER, "seed": 0}


def record(number: int, fidelity: float, state: str = COMPLETE, hours: float = 1.0) -> TrialRecord:
    scores = {n: Estimate(fidelity, 0.0, 1.0) for n in ("prompt_fidelity", "subject_fidelity")}
    card = Scorecard(Path("-"), 1, scores, by_probe={name: [fidelity] * 2 for name in scores})
    epoch = ScoredEpoch(card, 0.1, 1e-3, hours * 1800, hours * 1800, 0, "")
    selected = None if state in (FAILED, RUNNING) else 1
    return TrialRecord(Path("-"), "s", number, {}, [], {}, {}, state, "", selected, [epoch])


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (BudgetConfig(), ""),
        (BudgetConfig(device_hours=4.5), ""),
        (BudgetConfig(device_hours=4), "device hours is used up"),
        (BudgetConfig(patience=3), ""),
        (BudgetConfig(patience=2), "the last 2 trials were no better"),
        (BudgetConfig(max_failures=1), ""),
        (BudgetConfig(max_failures=0), "1 trial failed"),
    ],
)
def test_budget_exhausted(budget: BudgetConfig, message: str) -> None:
    records = [record(0, 0.5), record(1, 0.8), record(2, 0.6), record(3, 0.9, FAILED)]
    reason = budget_exhausted(budget, records, POLICY)
    assert message in reason
    assert bool(reason) == bool(message)


def test_patience_uses_the_order_in_which_trials_end() -> None:
    """Trial 0 is the best one and ends last. In order of numbers, two would follow it."""
    records = [record(number, fidelity) for number, fidelity in enumerate((0.9, 0.5, 0.6))]
    for trial, ended in zip(records, (3, 1, 2), strict=True):
        trial.ended = ended
    assert budget_exhausted(BudgetConfig(patience=1), records, POLICY) == ""
    records[1].ended = 4
    assert "the last 1 trial was" in budget_exhausted(BudgetConfig(patience=1), records, POLICY)


def test_concurrent_commands_agree_on_a_study(tmp_path: Path) -> None:
    """Both found no study of this name; under the lock, the second one sees the first one's."""
    begin_study(
        StudyConfig("mine", str(tmp_path)), "x", **PARTS, shared_settings={"training.seed": "0"}
    )
    with pytest.raises(ConfigError, match=r"began with training\.seed=0, now it is 1") as error:
        begin_study(
            StudyConfig("mine", str(tmp_path)), "x", **PARTS, shared_settings={"training.seed": "1"}
        )
    assert "study.name=mine-2" in str(error.value)
    names = [
        begin_study(
            StudyConfig(None, str(tmp_path)), "x", **PARTS, shared_settings={"training.seed": seed}
        ).folder.name
        for seed in "010"
    ]
    assert names == ["x", "x-2", "x"]


def save_ended_record(folder: Path) -> None:
    """Writes the record of a trial that has ended."""
    trial_record = record(int(folder.name), 0.5)
    trial_record.folder = folder
    trial_record.save()


def study_of(
    folder: Path, *first: Params, search: str = "network.rank=2,4,8,16", **options: Any
) -> Study:
    space, _ = parse_space([search], {}, OverridesParser.create())
    return Study(
        folder=folder,
        shared_settings={},
        space=space,
        sampler={"_target_": "optuna.samplers.RandomSampler"},
        pruner={"_target_": "optuna.pruners.NopPruner"},
        initial_params=[*first],
        **{"seed": 0, **options},
    )


def test_crashes_of_a_trial_are_counted(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    crashes = []
    for state in (RUNNING, INTERRUPTED, RUNNING):
        trial = study.next_trial(1)
        assert trial
        crashes.append(trial.crash_count)
        trial_record = record(0, 0.5, state)
        trial_record.folder = trial.folder
        trial_record.save()
        if state == RUNNING:
            (trial.folder / IN_PROGRESS_FILE).touch()
        trial.lock.release(force=True)  # as the system does if the process is gone
    trial = study.next_trial(1)
    assert trial
    assert [*crashes, trial.crash_count] == [0, 1, 1, 2], "an interruption is not a crash"


@pytest.mark.parametrize("database", [False, True])
def test_enqueued_params_are_tried_first_and_once(tmp_path: Path, database: bool) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db" if database else None
    enqueued: list[Params] = [{"network.rank": 8}, {"network.rank": 2}]
    for _ in range(2):  # the same command again
        study = study_of(tmp_path / "b", *enqueued, url=url)
    ranks = []
    for value in (0.3, 0.9, 0.6, 0.1):
        trial = study.next_trial(4)
        assert trial
        ranks.append(trial.params["network.rank"])
        trial.complete([value], {"copying": 0.1 if value > 0.8 else -0.1})
        save_ended_record(trial.folder)
        trial.lock.release(force=True)
    assert ranks[:2] == [8, 2]
    assert sorted(ranks) == [2, 4, 8, 16]
    best = best_settings(tmp_path / "b", url, 2)
    assert best == [{"network.rank": ranks[2]}, {"network.rank": 8}], "one is over a limit"
    assert (tmp_path / "b" / "optuna.journal").exists() != database
    with pytest.raises(ConfigError, match="did you mean b"):
        best_settings(tmp_path / "bb", url, 2)


def test_two_objectives_have_a_pareto_front_and_no_pruner(tmp_path: Path) -> None:
    study = study_of(tmp_path, directions=OBJECTIVES["pareto"])
    values = [(0.9, 0.3), (0.8, 0.1), (0.7, 0.2)]
    for value in values:
        trial = study.next_trial(3)
        assert trial
        trial.report(1, 0.5)
        assert not trial.should_prune()
        trial.complete(value, {})
        save_ended_record(trial.folder)
        trial.lock.release(force=True)
    assert [trial.values for trial in study.optuna.best_trials] == [[0.9, 0.3], [0.8, 0.1]]


def test_enqueued_settings_must_be_searched() -> None:
    space, _ = parse_space(["network.rank=2,4"], {}, OverridesParser.create())
    master = OmegaConf.create({"network": {"rank": 4}, "hydra": {"runtime": {"choices": {}}}})
    config = SweepConfig()
    config.study.enqueue = [{"network.rank": 2}]
    assert initial_settings(master, config, space) == [{"network.rank": 4}, {"network.rank": 2}]
    for key, value, message in (("network.rnk", 2, "did you mean network.rank"),
                              ("network.rank", 3, "network.rank=3 is outside")):  # fmt: skip
        config.study.enqueue = [{key: value}]
        with pytest.raises(ConfigError, match=message):
            initial_settings(master, config, space)


def test_warm_start_params_follow_the_configured_ones(tmp_path: Path) -> None:
    study = study_of(tmp_path / "studies" / "old")
    values = {2: 0.3, 4: 0.9, 8: 0.6, 16: 0.1}
    while trial := study.next_trial(4):
        trial.complete([values[trial.params["network.rank"]]], {})
        save_ended_record(trial.folder)
        trial.lock.release(force=True)
    master = OmegaConf.create({"network": {"rank": 16}, "hydra": {"runtime": {"choices": {}}}})
    config = SweepConfig()
    config.study.root, config.study.warm_start = str(tmp_path), "old"
    space, _ = parse_space(["network.rank=4,8,16"], {}, OverridesParser.create())
    first = [params["network.rank"] for params in initial_settings(master, config, space)]
    assert first == [16, 4, 8], "its third best is not in this space"


def test_a_missing_database_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.storage: cannot be used") as error:
        study_of(tmp_path, url="sqlite:////nowhere/at/all.db")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [b"not json\n", b"\x00" * 500 + b"\n", b'{"a": 1}\n', b"[]\n"])
def test_a_damaged_journal_is_a_one_line_error(tmp_path: Path, damage: bytes) -> None:
    study_of(tmp_path)
    journal = tmp_path / "optuna.journal"
    journal.write_bytes(damage + journal.read_bytes())
    with pytest.raises(ConfigError, match=r"optuna\.journal is damaged \(") as error:
        study_of(tmp_path)
    assert "\n" not in str(error.value)


def test_each_seed_gives_another_search(tmp_path: Path) -> None:
    proposed: list[list[object]] = []
    for seed in (0, 0, 1):
        study = study_of(
            tmp_path / str(len(proposed)), search="optimizer.lr=interval(0,1)", seed=seed
        )
        trials = [study.next_trial(3) for _ in range(3)]
        proposed.append([trial.params["optimizer.lr"] for trial in trials if trial])
    assert proposed[0] == proposed[1]
    assert not set(proposed[1]) & set(proposed[2]), "not even shifted by a trial"
