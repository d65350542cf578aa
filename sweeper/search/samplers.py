"""Proposes trials: any Optuna sampler, wrapped so that it never repeats a proposal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import get_class, instantiate
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers import CmaEsSampler as OptunaCmaEsSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.cma_es import CmaEsSampler
from sweeper.search.sampler_arguments import unpickling_message
from sweeper.search.search_space import Params, Space, identity
from train.config.class_arguments import TARGET, find_class
from train.config.parsing import cause
from train.errors import ConfigError

SAMPLER_KEY = "hydra.sweeper.sampler"
MAX_ATTEMPTS = 100  # repeated proposals after which the first untried combination is taken
DEFAULT_TRIALS = 8  # trials of a study without n_trials
SIGNIFICANT_DIGITS = 3  # of a sampled number: 0.00231, not 0.0023140692632779


class GridSampler(RandomSampler):
    """Every combination, in order (the work is done by `DeduplicatingSampler`)."""


class DeduplicatingSampler(BaseSampler):
    """A sampler that does not propose the settings of an earlier trial again.

    Args:
        wrapped: the sampler that makes the proposals.
        space: the search space.
        study: the study whose trials are not to be repeated.
    """

    def __init__(self, wrapped: BaseSampler, space: Space, study: Study) -> None:
        self.wrapped, self.space, self.study = wrapped, space, study

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """Proposes all settings at once, so that they can be compared with the earlier trials."""
        tried = tried_identities(self.study, excluded=trial.number)
        fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if not isinstance(self.wrapped, GridSampler):
            for _ in range(MAX_ATTEMPTS):
                params = self.space.active_params(self._draw(study, trial) | fixed)
                if identity(params) not in tried:
                    return params
        for combination in self.space.combinations() or ():
            params = self.space.active_params(combination | fixed)
            if identity(params) not in tried:
                return params
        return self.space.active_params(self._draw(study, trial) | fixed)

    def _draw(self, study: Study, trial: FrozenTrial) -> Params:
        params = self.wrapped.sample_relative(
            study, trial, self.wrapped.infer_relative_search_space(study, trial)
        )
        for key, distribution in self.space.distributions.items():
            if key not in params:
                params[key] = self.wrapped.sample_independent(study, trial, key, distribution)
            if isinstance(distribution, FloatDistribution) and distribution.step is None:
                params[key] = round_value(params[key], distribution)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        return self.wrapped.sample_independent(study, trial, name, distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.wrapped.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.wrapped.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self.wrapped.reseed_rng()


def make_sampler(config: dict[str, Any], seed: int, space: Space, study: Study) -> BaseSampler:
    """The sampler of hydra/sweeper/sampler, seeded for one proposal.

    It is rebuilt for every trial, with a seed made from the study's seed and the trial number, so
    that proposals depend only on the study, not on how often it was interrupted.
    """
    return DeduplicatingSampler(
        instantiate_checked(SAMPLER_KEY, {"seed": seed, **config}, BaseSampler), space, study
    )


def instantiate_checked(key: str, settings: Mapping[str, Any], kind: type) -> Any:
    """Instantiates settings with a `_target_`.

    Args:
        key: the dotted key of the settings, for error messages.
        kind: the required base class.

    Raises:
        ConfigError: there is no such class, it is of another kind, or it rejects its settings.
    """
    cls = find_class(key, settings[TARGET], kind)
    try:
        return instantiate(settings)
    except Exception as error:
        reason = cause(error.__cause__ or error)
        raise ConfigError(f"{key}: {cls.__name__} refuses its settings: {reason}") from None


def check_sampler(config: dict[str, Any], space: Space, objectives: int) -> None:
    """Checks that a sampler fits a search.

    Raises:
        ConfigError: it cannot be instantiated, or it unpickles a study's attributes; it is a grid
            and a range is continuous; it supports one objective and there are two.
    """
    sampler = instantiate_checked(SAMPLER_KEY, {"seed": 0, **config}, BaseSampler)
    if isinstance(sampler, OptunaCmaEsSampler):
        raise ConfigError(unpickling_message(config[TARGET]))
    if is_grid(config) and space.size() is None:
        continuous = next(d.key for d in space.dimensions if d.values() is None)
        raise ConfigError(
            f"{continuous}: a grid needs single values: a choice, a range or int(...)"
        )
    if objectives > 1 and isinstance(sampler, CmaEsSampler):
        raise ConfigError("hydra/sweeper/sampler: cmaes supports only one objective; use nsgaii")


def trial_count(n_trials: int | None, config: dict[str, Any], space: Space) -> int:
    """Number of trials of a study; by default the size of a grid, or else DEFAULT_TRIALS."""
    if n_trials is None:
        n_trials = (space.size() if is_grid(config) else None) or DEFAULT_TRIALS
    return n_trials


def is_grid(config: dict[str, Any]) -> bool:
    """Whether the sampler enumerates all combinations."""
    return issubclass(get_class(config["_target_"]), GridSampler)


def tried_identities(study: Study, excluded: int | None = None) -> set[str]:
    """Identities of all trials that have been started, except `excluded`."""
    started = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    trials = study.get_trials(deepcopy=False, states=started)
    return {identity(trial.params) for trial in trials if trial.number != excluded}


def round_value(value: float, distribution: FloatDistribution) -> float:
    """Rounds to `SIGNIFICANT_DIGITS` of the value (log scale) or of the range (linear scale)."""
    scale = abs(value) if distribution.log else distribution.high - distribution.low
    digits = SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(scale)) if scale else SIGNIFICANT_DIGITS
    return min(distribution.high, max(distribution.low, round(value, digits)))
