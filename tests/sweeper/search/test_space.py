"""Hydra's sweeps become Optuna distributions, and no proposal is repeated."""

from __future__ import annotations

from functools import partial

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweeper.config import SweepConfig, check_sweep
from sweeper.execution.search_setup import configured, initial_settings
from sweeper.search.conditional_params import is_active
from sweeper.search.samplers import (
    DeduplicatingSampler,
    GridSampler,
    check_sampler,
    round_value,
    trial_count,
)
from sweeper.search.search_space import Space, identity, parse_space
from sweeper.study.trial_lease import suggest_all
from train.cli.compose import settings
from train.cli.group_choices import with_group_choices
from train.config.schema import CONF
from train.errors import ConfigError


def space_of(*arguments: str, search: dict[str, str] | None = None) -> tuple[Space, list[str]]:
    return parse_space(list(arguments), search or {}, OverridesParser.create())


def composed(*chosen: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("sweep", with_group_choices(chosen), return_hydra_config=True)


@pytest.mark.parametrize(
    ("words", "distribution"),
    [
        ("4,8,16", CategoricalDistribution([4, 8, 16])),
        ("choice(a, 'b c')", CategoricalDistribution(["a", "b c"])),
        ("null,2.5", CategoricalDistribution([None, 2.5])),
        ("shuffle(16,4,8)", CategoricalDistribution([16, 4, 8])),
        ("sort(16,4,8)", CategoricalDistribution([4, 8, 16])),
        ("shuffle(range(4,33,4))", IntDistribution(4, 32, step=4)),
        ("sort(4,16,8,reverse=true)", CategoricalDistribution([16, 8, 4])),
        ("range(32,3,-4)", IntDistribution(4, 32, step=4)),
        ("tag(log,range(1,65))", IntDistribution(1, 64, log=True)),
        ("range(4,33,4)", IntDistribution(4, 32, step=4)),
        ("range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("interval(1,64)", FloatDistribution(1, 64)),
        ("int(interval(1,64))", IntDistribution(1, 64)),
        ("int(tag(log,interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
    ],
)
def test_sweeps_are_parsed_into_distributions(words: str, distribution: BaseDistribution) -> None:
    space, fixed = space_of(f"network.rank={words}", "training.epochs=3")
    assert space.distributions == {"network.rank": distribution}
    assert fixed == ["training.epochs=3"]


def test_choices_are_formatted_in_hydra_syntax() -> None:
    space, _ = space_of("optimizer.betas=[0.9,0.99],[0.9,0.999]", "data.repeats=1,2")
    betas, repeats = space.dimensions
    assert betas.override(betas.endpoints()[1]) == "optimizer.betas=[0.9,0.999]"
    assert repeats.override(2) == "data.repeats=2"


def test_sweeps_replace_the_search_and_fixed_values_shrink_it() -> None:
    search = {"network.rank": "choice(4, 8)", "scheduler": "choice(constant, cosine)"}
    assert list(space_of(search=search)[0].distributions) == ["network.rank", "scheduler"]
    assert list(space_of("network.rank=4", search=search)[0].distributions) == ["scheduler"]
    conditional_search = {
        "optimizer.lr": "interval(0.1, 1)",
        "scheduler.warmup_ratio": "choice(0, 0.1)",
        **search,
    }
    fixed_ones = space_of("optimizer=prodigy", "scheduler=constant", search=conditional_search)[0]
    assert list(fixed_ones.distributions) == ["network.rank"], "lr and warm-up have no effect there"
    space, fixed = space_of("training.seed=1,2", "network.rank=4", search=search)
    assert list(space.distributions) == ["training.seed"]
    assert fixed == ["network.rank=4"]


@pytest.mark.parametrize(
    "words",
    [
        "base.path=a,b",
        "final.rounds=2,4",
        "network.rank=interval(8,4)",
        "optimizer.lr=tag(log,interval(0,1))",
        "network.rank=range(4,4)",
    ],
)
def test_invalid_searches_are_refused(words: str) -> None:
    with pytest.raises(ConfigError, match=words.split("=")[0]):
        space_of(words)


@pytest.mark.parametrize("inner", [optuna.samplers.RandomSampler(seed=0), GridSampler()])
def test_no_combination_is_proposed_twice(inner: optuna.samplers.BaseSampler) -> None:
    space, _ = space_of("network.rank=2,4,8", "scheduler=constant,cosine")
    study = optuna.create_study()
    study.sampler = DeduplicatingSampler(inner, space, study)
    seen = []
    for _ in range(space.size() or 0):
        trial = study.ask(space.distributions)
        seen.append(tuple(trial.params.values()))
        study.tell(trial, 1.0)
    assert len(set(seen)) == 6


def test_globs_expand_to_choices_of_a_group() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        space, _ = parse_space(["scheduler=glob(cos*)"], {}, OverridesParser.create(loader))
    distribution = CategoricalDistribution(
        ["cosine", "cosine_with_min_lr", "cosine_with_restarting", "cosine_with_restarts"]
    )
    assert space.distributions == {"scheduler": distribution}


def test_conditional_settings_are_searched_only_when_active() -> None:
    space, _ = space_of("network.conv_alpha=1,2", "network.rank=4,8", "network.conv_rank=0,4")
    assert list(space.distributions)[-1] == "network.conv_alpha", "after the setting it depends on"
    assert space.size() == 2 * (1 + 2)
    alpha = space.dimensions[-1]
    assert space.activating_overrides(alpha) == ["network.conv_rank=4"]
    for inner in (optuna.samplers.RandomSampler(seed=0), optuna.samplers.TPESampler(seed=0)):
        study = optuna.create_study()
        study.sampler = DeduplicatingSampler(inner, space, study)
        seen = []
        for _ in range(6):
            trial = study.ask()
            suggest_all(trial, space)
            assert ("network.conv_alpha" in trial.params) == (trial.params["network.conv_rank"] > 0)
            seen.append(identity(trial.params))
            study.tell(trial, 1.0)
        assert len(set(seen)) == 6
    never, _ = space_of("scheduler=constant,linear", "scheduler.power=1,2")
    with pytest.raises(ConfigError, match=r"scheduler\.power: has no effect"):
        never.activating_overrides(never.dimensions[-1])


SEARCHES = sorted(file.stem for file in (CONF / "search").iterdir())
SAME_NAME = [name for name in SEARCHES if (CONF / "preset" / f"{name}.yaml").is_file()]


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        *((name, [f"base.path={base}"]) for name in SEARCHES for base in ("puppets", "/my/model")),
        *(
            (name, [f"preset={name}", f"base.path={base}"])
            for name in SAME_NAME
            for base in ("puppets", "/my/model")
        ),
    ],
)
def test_every_search_contains_the_configured_settings(name: str, chosen: list[str]) -> None:
    chosen = [f"search={name}", *chosen]
    config = settings("sweep", SweepConfig, chosen)
    space, _ = parse_space([], config.search, OverridesParser.create())
    assert space.distributions.keys() == config.search.keys()
    for dimension in space.dimensions:
        parents = space.activating_overrides(dimension)
        for value in dimension.endpoints():
            overrides = [*chosen, *parents, dimension.override(value)]
            check_sweep(settings("sweep", SweepConfig, overrides))
    preset = initial_settings(composed(*chosen), config, space)[0]
    assert {key for key in config.search if is_active(key, preset)} == preset.keys()


@pytest.mark.parametrize("base", ["puppets", "/my/model"])
@pytest.mark.parametrize("preset", ["character", "style", "concept"])
def test_a_preset_is_tried_first_in_any_search(preset: str, base: str) -> None:
    chosen = [f"preset={preset}", f"base.path={base}"]
    config, master = settings("sweep", SweepConfig, chosen), composed(*chosen)
    space, _ = parse_space([], config.search, OverridesParser.create(), partial(configured, master))
    first = initial_settings(master, config, space)[0]
    assert first == {
        "optimizer.lr": config.optimizer["lr"],
        "network.rank": config.network.rank,
        "scheduler": config.scheduler.name,
    }
    for dimension in space.dimensions:
        tried = settings("sweep", SweepConfig, [*chosen, dimension.override(first[dimension.key])])
        assert tried == config


def test_settings_without_effect_are_not_searched() -> None:
    search = {"optimizer.lr": "interval(0.1, 1)", "network.rank": "choice(4, 8)"}
    space, _ = parse_space(
        [], search, OverridesParser.create(), {"optimizer": "prodigy", "network.rank": 8}.get
    )
    assert list(space.distributions) == ["network.rank"], "any lr is 1 with prodigy"


def test_a_grid_covers_all_combinations_by_default() -> None:
    grid = {"_target_": "sweeper.search.samplers.GridSampler"}
    tpe = {"_target_": "optuna.samplers.TPESampler"}
    choices, _ = space_of("network.rank=2,4,8", "scheduler=constant,cosine,linear,polynomial")
    endless, _ = space_of("optimizer.lr=interval(0.1,1)")
    assert (trial_count(None, grid, choices), trial_count(5, grid, choices)) == (12, 5)
    assert trial_count(None, tpe, choices) == trial_count(None, tpe, endless) == 8
    with pytest.raises(ConfigError, match=r"optimizer\.lr: a grid needs single values"):
        check_sampler(grid, endless, 1)
    with pytest.raises(ConfigError, match="cmaes supports only one objective"):
        check_sampler({"_target_": "sweeper.search.cma_es.CmaEsSampler"}, choices, 2)


def test_numbers_are_rounded_within_the_range() -> None:
    log = FloatDistribution(1e-4, 1e-2, log=True)
    assert round_value(0.0023140692632779, log) == 0.00231
    assert round_value(1e-4, log) == 1e-4
    assert round_value(0.99949, FloatDistribution(0.999, 0.9999)) == pytest.approx(0.99949)
