"""Parses a search from its command line: its space, its fixed overrides, its first trials."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from sweeper.config import OBJECTIVES, SweepConfig, check_sweep
from sweeper.search.samplers import check_sampler, trial_count
from sweeper.search.search_space import Params, Space, parse_space
from sweeper.study.study import best_settings
from sweeper.study_folder import study_folder
from train.cli.compose import without_hydra
from train.config.parsing import dotted_keys, parse_config, suggestion
from train.errors import ConfigError
from train.loop.construction_checks import optimizer_class

WARM_START_TRIALS = 3  # best trials of another study that are tried first


@dataclass(frozen=True)
class HydraSweep:
    """What Hydra passes to a sweeper, and the sweeper's own settings (conf/hydra/sweeper).

    Attributes:
        config: the composed config, including Hydra's own part.
        launcher: runs the workers, or selects packs.
        n_trials: trials of the whole study, including earlier runs; None: see `trial_count`.
        workers: number of processes for a launcher other than `packed`.
        objective: one of OBJECTIVES.
        seed: seed of the search.
        sampler: the `_target_` of a sampler and its arguments, without the seed.
    """

    context: HydraContext
    config: DictConfig
    launcher: Launcher
    n_trials: int | None
    workers: int
    objective: str
    seed: int
    sampler: dict[str, Any]

    def compose(self, overrides: list[str]) -> SweepConfig:
        """The settings of a trial, checked.

        Raises:
            ConfigError: impossible settings.
        """
        try:
            composed = self.context.config_loader.load_sweep_config(self.config, overrides)
        except HydraException as error:
            raise ConfigError(" ".join(f"{error} {error.__cause__ or ''}".split())) from None
        config = parse_config(SweepConfig, without_hydra(composed))
        config.search = self.search  # the trial's own has moved with the settings it is around
        check_sweep(config)
        optimizer_class(config.optimizer)
        return config

    @property
    def search(self) -> dict[str, str]:
        """The group `search` of the study, whose interpolations are resolved."""
        return {str(key): str(value) for key, value in self.config.search.items()}


@dataclass(frozen=True)
class Search:
    """A parsed search.

    Attributes:
        config: the composed settings; searched settings have their configured values.
        space: the search space.
        fixed: overrides that all trials share.
        initial_params: params to try before any are proposed.
        n_trials: trials of the whole study.
    """

    hydra: HydraSweep
    config: SweepConfig
    space: Space
    fixed: list[str]
    initial_params: list[Params]
    n_trials: int


def parse_search(hydra: HydraSweep, arguments: list[str]) -> Search:
    """Parses the search of a command line, or of conf/search if the command line has no sweep.

    Raises:
        ConfigError: settings, values or combinations that cannot work.
    """
    parser = OverridesParser.create(hydra.context.config_loader)
    space, fixed = parse_space(arguments, hydra.search, parser, partial(configured, hydra.config))
    check_sampler(hydra.sampler, space, len(OBJECTIVES[hydra.objective]))
    config = hydra.compose(fixed)
    _check_space(hydra, space, fixed)
    return Search(
        hydra=hydra,
        config=config,
        space=space,
        fixed=fixed,
        initial_params=initial_settings(hydra.config, config, space),
        n_trials=trial_count(hydra.n_trials, hydra.sampler, space),
    )


def _check_space(hydra: HydraSweep, space: Space, fixed: list[str]) -> None:
    """Composes and checks each dimension's choices, or the ends of its range, one at a time."""
    groups = set(hydra.config.hydra.runtime.choices)
    known_keys = [*dotted_keys(hydra.config), *groups]
    for dimension in space.dimensions:
        if dimension.key.lstrip("+") not in known_keys:
            hint = suggestion(dimension.key, known_keys)
            raise ConfigError(f"{dimension.key}: there is no such setting{hint}")
        parents = space.activating_overrides(dimension)
        for value in dimension.endpoints():
            hydra.compose([*fixed, *parents, dimension.override(value)])


def initial_settings(master: DictConfig, config: SweepConfig, space: Space) -> list[Params]:
    """The params to try first.

    These are the configured ones, so that the search cannot end worse than they are; those of
    `study.enqueue`; and the best ones of the study `study.warm_start`.

    Raises:
        ConfigError: an enqueued setting is not searched, or outside the search space.
    """
    dimensions = {dimension.key: dimension for dimension in space.dimensions}
    for params in config.study.enqueue:
        for key, value in params.items():
            if key not in dimensions:
                hint = suggestion(key, [*dimensions])
                raise ConfigError(f"study.enqueue: {key} is not searched{hint}")
            if not dimensions[key].contains(value):
                raise ConfigError(f"study.enqueue: {key}={value} is outside the search space")
    best = []
    if config.study.warm_start:
        root, name = Path(config.study.root), config.study.warm_start
        warm_start_study = study_folder(root, name, "study.warm_start")
        best = best_settings(warm_start_study, config.study.storage, WARM_START_TRIALS)
    candidates = [
        {k: v for k, v in params.items() if k in dimensions and dimensions[k].contains(v)}
        for params in (_defaults(master, space), *config.study.enqueue, *best)
    ]
    return [space.active_params(params) for params in candidates if params]


def _defaults(master: DictConfig, space: Space) -> Params:
    """The configured settings that are in the space."""
    values = [(dimension, configured(master, dimension.key)) for dimension in space.dimensions]
    return {dimension.key: value for dimension, value in values if dimension.contains(value)}


def configured(master: DictConfig, key: str) -> Any:
    """A setting's value, or a group's choice, as composed."""
    choices = master.hydra.runtime.choices
    return choices[key] if key in choices else OmegaConf.select(master, key)
