"""CMA-ES proposes from a study's trials alone, and unpickles nothing that lies in the study."""

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

from sweeper.search.class_arguments import check_sampler_arguments
from sweeper.search.cma_es import GENERATION, CmaEsSampler
from sweeper.search.samplers import check_sampler, make_sampler
from sweeper.search.search_space import Space, parse_space
from sweeper.study.storage import JOURNAL_FILE, NO_PRUNER
from sweeper.study.study import Study
from sweeper.study.trial_lease import LeasedTrial
from tests.sweeper.study.test_budget import save_ended_record
from train.errors import ConfigError

CMA = {"_target_": "sweeper.search.cma_es.CmaEsSampler", "n_startup_trials": 4}
OPTUNAS = "optuna.samplers.CmaEsSampler"
PLANE = ("x=interval(0.0, 1.0)", "y=interval(0.0, 1.0)")


class Canary:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def space_of(*sweeps: str) -> Space:
    return parse_space([*sweeps], {}, OverridesParser.create())[0]


def begun(folder: Path, *sweeps: str, sampler: dict[str, Any] | None = None) -> Study:
    return Study(folder, {}, space_of(*sweeps), sampler or CMA, NO_PRUNER, 0)


def started(study: Study) -> LeasedTrial:
    trial = study.next_trial(100)
    assert trial
    return trial


def finish(trial: LeasedTrial) -> None:
    save_ended_record(trial.folder)
    trial.complete([height(trial.params)], {})


def advance(study: optuna.Study, space: Space, trials: int, seed: int, config: Any = None) -> None:
    """Goes on as `Study` does: a sampler for each trial, with a seed of its own."""
    for _ in range(trials):
        number = len(study.trials)
        mixed = np.random.SeedSequence((seed, number)).generate_state(1)
        study.sampler = make_sampler(config or CMA, int(mixed[0]), space, study)
        asked = study.ask(space.distributions)
        study.tell(asked, height(asked.params))


def height(params: dict[str, Any]) -> float:
    return -sum((value - 0.7) ** 2 for value in params.values())


def lines_of(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_a_pickle_in_a_journal_runs_no_code(tmp_path: Path) -> None:
    """As in a study that a friend sent: each of its trials brings an optimizer."""
    folder, canary = tmp_path / "studies" / "cma", tmp_path / "PWNED"
    study = begun(folder, *PLANE)
    for number in range(6):
        with started(study) as trial:
            attribute = {"cma:optimizer:0": pickle.dumps(Canary(canary)).hex()}
            line = {"op_code": 9, "worker_id": "friend", "trial_id": number}
            with (folder / JOURNAL_FILE).open("a") as journal:
                journal.write(json.dumps({**line, "system_attr": attribute}) + "\n")
            finish(trial)
    again = begun(folder, *PLANE)
    with started(again) as trial:
        assert set(trial.params) == {"x", "y"}
    assert not canary.exists()
    assert not any("optimizer" in name for t in again.optuna.trials for name in t.system_attrs)


def test_it_writes_no_pickle(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "cma"
    study = begun(folder, *PLANE)
    for _ in range(16):
        with started(study) as trial:
            finish(trial)
    said = [line["system_attr"] for line in lines_of(folder / JOURNAL_FILE) if line["op_code"] == 9]
    assert said
    assert {name for attribute in said for name in attribute} == {GENERATION}
    assert {attribute[GENERATION] for attribute in said} == {0, 1}
    assert len(said) == 12, "once a trial, and not for those that are drawn at random"


def test_the_optimizer_is_the_one_that_was_told(tmp_path: Path) -> None:
    """Rebuilt from the trials it has the same distribution as one that was there all along."""
    space, study = space_of(*PLANE), optuna.create_study(direction="maximize")
    advance(study, space, 4 + 6 * 5, 0)
    optimizer = cmaes.CMA(
        np.full(2, 0.5), 1 / 6, np.array([[0.0, 1.0]] * 2), population_size=6, seed=0
    )
    for generation in range(5):
        told = [t for t in study.trials if t.system_attrs.get(GENERATION) == generation]
        optimizer.tell([(np.array([t.params["x"], t.params["y"]]), -t.values[0]) for t in told])
    asked, sampler = study.ask(), CmaEsSampler(seed=3)
    frozen = study.trials[asked.number]
    sampler.sample_relative(study, frozen, space.distributions)
    assert sampler._generation
    rebuilt = sampler._generation.optimizer
    assert rebuilt.generation == 5
    assert rebuilt.mean == pytest.approx(optimizer.mean)
    assert rebuilt._sigma == pytest.approx(optimizer._sigma)
    assert pytest.approx(optimizer._C) == rebuilt._C


def test_proposals_hang_on_the_study_alone(tmp_path: Path) -> None:
    """A study that is opened anew for each trial goes the same way as one that never was."""
    at_once, in_parts = begun(tmp_path / "a", *PLANE), tmp_path / "b"
    for _ in range(14):
        for study in (at_once, begun(in_parts, *PLANE)):
            with started(study) as trial:
                finish(trial)
    found = [[t.params for t in s.optuna.trials] for s in (at_once, begun(in_parts, *PLANE))]
    assert found[0] == found[1]


@pytest.mark.parametrize("extra", [{}, {"use_separable_cma": True}, {"lr_adapt": True}])
def test_it_searches(extra: dict[str, Any]) -> None:
    """Nearer than random draws come, by more than chance."""
    space, ends = space_of(*PLANE, "z=interval(0.0, 1.0)"), []
    for config in ({**CMA, **extra}, {"_target_": "optuna.samplers.RandomSampler"}):
        best = []
        for seed in range(3):
            study = optuna.create_study(direction="maximize")
            advance(study, space, 60, seed, config)
            best.append(-study.best_value)
        ends.append(sorted(best)[1])
    assert ends[0] < ends[1] / 2, ends


def test_choices_and_lone_workers_are_no_hindrance() -> None:
    """Choices are drawn at random; trials that others are at are not waited for."""
    space = space_of(*PLANE, "c=choice(a,b)", "n=range(1,9)")
    study = optuna.create_study(direction="maximize")
    for number in range(20):
        study.sampler = make_sampler(CMA, number, space, study)
        asked = [study.ask(space.distributions) for _ in range(3)]
        for one in asked[:2]:
            study.tell(one, one.params["x"])
    assert len({json.dumps(t.params, sort_keys=True) for t in study.trials}) == 60


ATTRIBUTES = [-1, 0.0, "0", True, None, [0], {"0": 0}, 10**30, float("nan"), "\x1b[31m"]


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=repr)
def test_a_senseless_generation_is_none(attribute: Any) -> None:
    space, study = space_of(*PLANE), optuna.create_study(direction="maximize")
    for step in range(8):
        asked = study.ask(space.distributions)
        study._storage.set_trial_system_attr(asked._trial_id, GENERATION, attribute)
        study.tell(asked, float(step))
    advance(study, space, 1, 0)
    assert study.trials[-1].system_attrs[GENERATION] == 0
    assert study.trials[-1].state == TrialState.COMPLETE


@pytest.mark.parametrize("value", [1e308, -1e308, float("inf"), 0.0])
def test_values_that_lead_nowhere_are_survived(value: float) -> None:
    space, study = space_of(*PLANE), optuna.create_study(direction="maximize")
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
        {"_target_": OPTUNAS},
        {"_target_": "optuna.samplers._cmaes.CmaEsSampler"},
        {"_target_": "optuna_integration.PyCmaSampler"},
        {"_target_": "optuna.samplers.PartialFixedSampler", "base_sampler": {"_target_": OPTUNAS}},
        {"_target_": "mine.Several", "of": [{"inner": {"_target_": OPTUNAS}}]},
    ],
)
def test_a_sampler_that_unpickles_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unpickles") as caught:
        check_sampler_arguments(config)
    assert "use sweeper.search.cma_es.CmaEsSampler" in str(caught.value)
    assert "\n" not in str(caught.value)


class Derived(optuna.samplers.CmaEsSampler):
    """As a person might have written it."""


def test_so_is_one_that_is_made_from_it() -> None:
    with pytest.raises(ConfigError, match="unpickles"):
        check_sampler({"_target_": f"{__name__}.Derived"}, space_of(*PLANE), 1)


@pytest.mark.parametrize(
    "option", ["with_margin", "restart_strategy", "inc_popsize", "consider_pruned_trials"]
)
def test_an_option_that_it_does_not_have_ends_in_one_line(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: CmaEsSampler has no such argument"):
        check_sampler_arguments({**CMA, option: True})


def test_options_that_do_not_go_together_end_in_one_line() -> None:
    both = {**CMA, "lr_adapt": True, "use_separable_cma": True}
    with pytest.raises(ConfigError, match="lr_adapt cannot be combined with use_separable_cma"):
        check_sampler(both, space_of(*PLANE), 1)
