"""CMA-ES proposes from a study's trials only, and unpickles nothing from the study."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from sweeper.search.cma_es import GENERATION, CmaEsSampler
from sweeper.search.sampler_arguments import check_sampler_arguments
from sweeper.search.samplers import check_sampler, make_sampler
from sweeper.search.search_space import Space, parse_space
from sweeper.study.storage import JOURNAL_FILE, NO_PRUNER
from sweeper.study.study import Study
from sweeper.study.trial_lease import LeasedTrial
from tests.sweeper.study.test_budget import save_ended_record
from train.errors import ConfigError

CMA = {"_target_": "sweeper.search.cma_es.CmaEsSampler", "n_startup_trials": 4}
OPTUNA_SAMPLER = "optuna.samplers.CmaEsSampler"
SPACE_2D = ("x=interval(0.0, 1.0)", "y=interval(0.0, 1.0)")


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def make_space(*sweeps: str) -> Space:
    return parse_space([*sweeps], {}, OverridesParser.create())[0]


def open_cma_study(folder: Path, *sweeps: str, sampler: dict[str, Any] | None = None) -> Study:
    return Study(folder, {}, make_space(*sweeps), sampler or CMA, NO_PRUNER, 0)


def next_trial(study: Study) -> LeasedTrial:
    trial = study.next_trial(100)
    assert trial
    return trial


def finish(trial: LeasedTrial) -> None:
    save_ended_record(trial.folder)
    trial.complete([objective(trial.params)], {})


def advance(study: optuna.Study, space: Space, trials: int, seed: int, config: Any = None) -> None:
    """Runs trials as `Study` does, with a new sampler and seed for each."""
    for _ in range(trials):
        number = len(study.trials)
        seeds = np.random.SeedSequence((seed, number)).generate_state(1)
        study.sampler = make_sampler(config or CMA, int(seeds[0]), space, study)
        trial = study.ask(space.distributions)
        study.tell(trial, objective(trial.params))


def objective(params: dict[str, Any]) -> float:
    return -sum((value - 0.7) ** 2 for value in params.values())


def lines_of(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_pickle_in_a_journal_runs_no_code(tmp_path: Path) -> None:
    """Each trial of the received study has a pickled optimizer."""
    folder, canary = tmp_path / "studies" / "cma", tmp_path / "PWNED"
    study = open_cma_study(folder, *SPACE_2D)
    for number in range(6):
        with next_trial(study) as trial:
            attribute = {"cma:optimizer:0": pickle.dumps(Canary(canary)).hex()}
            line = {"op_code": 9, "worker_id": "friend", "trial_id": number}
            with (folder / JOURNAL_FILE).open("a") as journal:
                journal.write(json.dumps({**line, "system_attr": attribute}) + "\n")
            finish(trial)
    reopened = open_cma_study(folder, *SPACE_2D)
    with next_trial(reopened) as trial:
        assert set(trial.params) == {"x", "y"}
    assert not canary.exists()
    assert not any("optimizer" in name for t in reopened.optuna.trials for name in t.system_attrs)


def test_sampler_writes_no_pickle(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "cma"
    study = open_cma_study(folder, *SPACE_2D)
    for _ in range(16):
        with next_trial(study) as trial:
            finish(trial)
    attributes = [
        line["system_attr"] for line in lines_of(folder / JOURNAL_FILE) if line["op_code"] == 9
    ]
    assert attributes
    assert {name for attribute in attributes for name in attribute} == {GENERATION}
    assert {attribute[GENERATION] for attribute in attributes} == {0, 1}
    assert len(attributes) == 12, "once per trial, except for random startup trials"


def test_rebuilt_optimizer_equals_a_continuous_one(tmp_path: Path) -> None:
    """It is rebuilt from the trials, and has the same distribution."""
    space, study = make_space(*SPACE_2D), optuna.create_study(direction="maximize")
    advance(study, space, 4 + 6 * 5, 0)
    optimizer = cmaes.CMA(
        np.full(2, 0.5), 1 / 6, np.array([[0.0, 1.0]] * 2), population_size=6, seed=0
    )
    for generation in range(5):
        trials = [t for t in study.trials if t.system_attrs.get(GENERATION) == generation]
        optimizer.tell([(np.array([t.params["x"], t.params["y"]]), -t.values[0]) for t in trials])
    trial, sampler = study.ask(), CmaEsSampler(seed=3)
    frozen = study.trials[trial.number]
    sampler.sample_relative(study, frozen, space.distributions)
    assert sampler._generation
    rebuilt = sampler._generation.optimizer
    assert rebuilt.generation == 5
    assert rebuilt.mean == pytest.approx(optimizer.mean)
    assert rebuilt._sigma == pytest.approx(optimizer._sigma)
    assert pytest.approx(optimizer._C) == rebuilt._C


def test_proposals_depend_on_the_study_only(tmp_path: Path) -> None:
    """A study that is reopened for each trial gets the same proposals as one kept open."""
    kept_open, reopened = open_cma_study(tmp_path / "a", *SPACE_2D), tmp_path / "b"
    for _ in range(14):
        for study in (kept_open, open_cma_study(reopened, *SPACE_2D)):
            with next_trial(study) as trial:
                finish(trial)
    params = [
        [t.params for t in s.optuna.trials]
        for s in (kept_open, open_cma_study(reopened, *SPACE_2D))
    ]
    assert params[0] == params[1]


@pytest.mark.parametrize("extra", [{}, {"use_separable_cma": True}, {"lr_adapt": True}])
def test_search_is_better_than_random(extra: dict[str, Any]) -> None:
    """The median distance to the optimum is less than half of that of random search."""
    space, distances = make_space(*SPACE_2D, "z=interval(0.0, 1.0)"), []
    for config in ({**CMA, **extra}, {"_target_": "optuna.samplers.RandomSampler"}):
        best = []
        for seed in range(3):
            study = optuna.create_study(direction="maximize")
            advance(study, space, 60, seed, config)
            best.append(-study.best_value)
        distances.append(sorted(best)[1])
    assert distances[0] < distances[1] / 2, distances


def test_choices_and_running_trials_do_not_block_the_search() -> None:
    """Choices are drawn at random, and running trials of other workers are ignored."""
    space = make_space(*SPACE_2D, "c=choice(a,b)", "n=range(1,9)")
    study = optuna.create_study(direction="maximize")
    for number in range(20):
        study.sampler = make_sampler(CMA, number, space, study)
        trials = [study.ask(space.distributions) for _ in range(3)]
        for trial in trials[:2]:
            study.tell(trial, trial.params["x"])
    assert len({json.dumps(t.params, sort_keys=True) for t in study.trials}) == 60


ATTRIBUTES = [-1, 0.0, "0", True, None, [0], {"0": 0}, 10**30, float("nan"), "\x1b[31m"]


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=repr)
def test_invalid_generation_is_ignored(attribute: Any) -> None:
    space, study = make_space(*SPACE_2D), optuna.create_study(direction="maximize")
    for step in range(8):
        trial = study.ask(space.distributions)
        study._storage.set_trial_system_attr(trial._trial_id, GENERATION, attribute)
        study.tell(trial, float(step))
    advance(study, space, 1, 0)
    assert study.trials[-1].system_attrs[GENERATION] == 0
    assert study.trials[-1].state == TrialState.COMPLETE


@pytest.mark.parametrize("value", [1e308, -1e308, float("inf"), 0.0])
def test_degenerate_values_raise_no_error(value: float) -> None:
    space, study = make_space(*SPACE_2D), optuna.create_study(direction="maximize")
    for number in range(200):
        corner = {"x": float(number % 2), "y": float(number // 2 % 2)}
        study.add_trial(
            optuna.trial.create_trial(
                params=corner,
                distributions=space.distributions,
                value=value,
                system_attrs={GENERATION: number // 6},
            )
        )
    advance(study, space, 3, 0)


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": OPTUNA_SAMPLER},
        {"_target_": "optuna.samplers._cmaes.CmaEsSampler"},
        {"_target_": "optuna_integration.PyCmaSampler"},
        {
            "_target_": "optuna.samplers.PartialFixedSampler",
            "base_sampler": {"_target_": OPTUNA_SAMPLER},
        },
        {"_target_": "mine.Several", "of": [{"inner": {"_target_": OPTUNA_SAMPLER}}]},
    ],
)
def test_sampler_that_unpickles_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unpickles") as caught:
        check_sampler_arguments(config)
    assert "use sweeper.search.cma_es.CmaEsSampler" in str(caught.value)
    assert "\n" not in str(caught.value)


class Derived(optuna.samplers.CmaEsSampler):
    """A custom subclass."""


def test_subclass_of_a_sampler_that_unpickles_is_refused() -> None:
    with pytest.raises(ConfigError, match="unpickles"):
        check_sampler({"_target_": f"{__name__}.Derived"}, make_space(*SPACE_2D), 1)


@pytest.mark.parametrize(
    "option", ["with_margin", "restart_strategy", "inc_popsize", "consider_pruned_trials"]
)
def test_unknown_option_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: CmaEsSampler has no such argument"):
        check_sampler_arguments({**CMA, option: True})


def test_incompatible_options_are_refused() -> None:
    both = {**CMA, "lr_adapt": True, "use_separable_cma": True}
    with pytest.raises(ConfigError, match="lr_adapt cannot be combined with use_separable_cma"):
        check_sampler(both, make_space(*SPACE_2D), 1)
