"""How the next trial is proposed: any Optuna sampler, kept from proposing the same twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import get_class, instantiate
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers import CmaEsSampler as OptunasCmaEsSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.class_arguments import unpickling
from sweeper.search.cma_es import CmaEsSampler
from sweeper.search.search_space import Params, Space, identity
from train.config.class_arguments import TARGET, find_class
from train.config.parsing import cause
from train.errors import ConfigError

SAMPLER = "hydra.sweeper.sampler"
DRAWS = 100  # proposals that may be known already before the first unknown combination is taken
TRIALS = 8  # of a study without n_trials
DIGITS = 3  # significant digits that are kept of a drawn number: 0.00231, not 0.0023140692632779


class GridSampler(RandomSampler):
    """Every combination, in order (the work is done by `DeduplicatingSampler`)."""


class DeduplicatingSampler(BaseSampler):
    """A sampler that never proposes what a trial of the study has had already.

    Args:
        inner: makes the proposals.
        space: what is searched.
        study: whose trials are known.
    """

    def __init__(self, inner: BaseSampler, space: Space, study: Study) -> None:
        self.inner, self.space, self.study = inner, space, study

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """The whole proposal at once, so that it can be compared with the trials that are known."""
        seen = known_settings(self.study, but=trial.number)
        fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if not isinstance(self.inner, GridSampler):
            for _ in range(DRAWS):
                params = self.space.relevant(self._draw(study, trial) | fixed)
                if identity(params) not in seen:
                    return params
        for combination in self.space.combinations() or ():
            params = self.space.relevant(combination | fixed)
            if identity(params) not in seen:
                return params
        return self.space.relevant(self._draw(study, trial) | fixed)

    def _draw(self, study: Study, trial: FrozenTrial) -> Params:
        params = self.inner.sample_relative(
            study, trial, self.inner.infer_relative_search_space(study, trial)
        )
        for key, distribution in self.space.distributions.items():
            if key not in params:
                params[key] = self.inner.sample_independent(study, trial, key, distribution)
            if isinstance(distribution, FloatDistribution) and distribution.step is None:
                params[key] = rounded(params[key], distribution)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        return self.inner.sample_independent(study, trial, name, distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()


def make_sampler(config: dict[str, Any], seed: int, space: Space, study: Study) -> BaseSampler:
    """The sampler of hydra/sweeper/sampler, seeded for one proposal.

    Made anew for every trial, with a seed of the study's and the trial's number: what is proposed
    then depends on the study alone, not on how often it was interrupted.
    """
    return DeduplicatingSampler(made(SAMPLER, {"seed": seed, **config}, BaseSampler), space, study)


def made(part: str, settings: Mapping[str, Any], kind: type) -> Any:
    """The object that settings with a `_target_` describe.

    Args:
        part: the dotted key of the settings.
        kind: what it must be.

    Raises:
        ConfigError: there is no such class, it is another kind, or it refuses its settings.
    """
    cls = find_class(part, settings[TARGET], kind)
    try:
        return instantiate(settings)
    except Exception as error:
        reason = cause(error.__cause__ or error)
        raise ConfigError(f"{part}: {cls.__name__} refuses its settings: {reason}") from None


def check_sampler(config: dict[str, Any], space: Space, objectives: int) -> None:
    """Refuses a sampler that can do nothing with a search.

    Raises:
        ConfigError: it cannot be made, or unpickles what it finds in a study; a grid over a
            continuum; a sampler for one objective, and there are two.
    """
    sampler = made(SAMPLER, {"seed": 0, **config}, BaseSampler)
    if isinstance(sampler, OptunasCmaEsSampler):
        raise ConfigError(unpickling(config[TARGET]))
    if is_grid(config) and space.size() is None:
        endless = next(d.key for d in space.dimensions if d.values() is None)
        raise ConfigError(f"{endless}: a grid needs single values: a choice, a range or int(...)")
    if objectives > 1 and isinstance(sampler, CmaEsSampler):
        raise ConfigError("hydra/sweeper/sampler: cmaes knows one objective alone; take nsgaii")


def trials_of(wanted: int | None, config: dict[str, Any], space: Space) -> int:
    """How many trials a study is to have; where nothing is wanted: all of a grid, else TRIALS."""
    if wanted is None:
        wanted = (space.size() if is_grid(config) else None) or TRIALS
    return wanted


def is_grid(config: dict[str, Any]) -> bool:
    """Whether the sampler goes through all combinations."""
    return issubclass(get_class(config["_target_"]), GridSampler)


def known_settings(study: Study, but: int | None = None) -> set[str]:
    """Identities of all trials that were ever begun."""
    begun = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    trials = study.get_trials(deepcopy=False, states=begun)
    return {identity(trial.params) for trial in trials if trial.number != but}


def rounded(value: float, distribution: FloatDistribution) -> float:
    """A number as a person would write it: no finer than a thousandth of the range or of itself."""
    grain = abs(value) if distribution.log else distribution.high - distribution.low
    digits = DIGITS - 1 - math.floor(math.log10(grain)) if grain else DIGITS
    return min(distribution.high, max(distribution.low, round(value, digits)))
