"""CMA-ES that keeps nothing but a whole number with each trial.

Optuna's own sampler stores its optimizer in the study, pickled, and unpickles whatever it finds
there. Here the optimizer is rebuilt for each proposal from the trials themselves: from their
settings, their values, and the generation that each was drawn for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cmaes
import numpy as np
from numpy.typing import NDArray
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

GENERATION = "cma:generation"  # system attribute of a trial; Optuna's sampler calls it so, too
DEFAULT_SIGMA = 1 / 6  # of the first generation, as a share of each setting's range
MIN_SIGMA = 1e-10  # of a spread: with none at all there is no distribution
MAX_VALUE = 1e300  # a value that is told: no NaN, no infinity, no whole number beyond all floats
MAX_SEED = 2**31 - 2

Numbers = NDArray[np.float64]
Space = dict[str, BaseDistribution]


@dataclass
class Generation:
    """The distribution of one generation, from which one trial is drawn.

    Attributes:
        trial: its number.
        optimizer: told of all generations before this one.
    """

    trial: int
    transform: _SearchSpaceTransform
    optimizer: cmaes.CMA | cmaes.SepCMA

    def sample(self) -> dict[str, Any]:
        """Another draw; empty where the distribution has degenerated."""
        try:
            point = self.optimizer.ask()
        except (np.linalg.LinAlgError, ValueError):
            return {}
        return self.transform.untransform(point) if np.isfinite(point).all() else {}


class CmaEsSampler(BaseSampler):
    """Covariance matrix adaptation (Hansen 2016) over the settings that are numbers.

    What it proposes depends on the study and the seed alone, whichever process asks.

    Args:
        n_startup_trials: finished trials before which all settings are drawn at random.
        popsize: trials of a generation; None: 4 + 3 ln(dimensions).
        sigma0: spread of the first generation, as a share of each setting's range.
        use_separable_cma: adapts each setting by itself (Ros and Hansen 2008).
        lr_adapt: adapts the learning rates, for noisy objectives (Nomura et al. 2023).

    Raises:
        ValueError: for `lr_adapt` with `use_separable_cma`.
    """

    def __init__(
        self,
        seed: int | None = None,
        n_startup_trials: int = 1,
        popsize: int | None = None,
        sigma0: float | None = None,
        use_separable_cma: bool = False,
        lr_adapt: bool = False,
    ) -> None:
        if lr_adapt and use_separable_cma:
            raise ValueError("lr_adapt does not go with use_separable_cma")
        self.n_startup_trials, self.popsize = n_startup_trials, popsize
        self.sigma = max(DEFAULT_SIGMA if sigma0 is None else sigma0, MIN_SIGMA)
        self.separable, self.lr_adapt = use_separable_cma, lr_adapt
        self._independent = RandomSampler(seed=seed)
        self._random = np.random.RandomState(seed)
        self._intersection = IntersectionSearchSpace()
        self._generation: Generation | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """The numbers that every finished trial has."""
        return {
            name: distribution
            for name, distribution in self._intersection.calculate(study).items()
            if isinstance(distribution, FloatDistribution | IntDistribution)
            and not distribution.single()
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """A draw from the current generation; each call for a trial gives another one.

        Raises:
            ValueError: the study has more than one objective.
        """
        self._raise_error_if_multi_objective(study)
        if self._generation is None or self._generation.trial != trial.number:
            completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if not search_space or len(completed) < self.n_startup_trials:
                return {}
            self._generation = self._replay(study, trial, completed, search_space)
            if not trial.params:  # else it was drawn before, and its process died
                generation = self._generation.optimizer.generation
                study._storage.set_trial_system_attr(trial._trial_id, GENERATION, generation)
        return self._generation.sample()

    def _replay(
        self, study: Study, trial: FrozenTrial, completed: list[FrozenTrial], space: Space
    ) -> Generation:
        """The optimizer, told of every generation that is complete, one after the other."""
        transform = _SearchSpaceTransform(space, transform_0_1=True)
        optimizer = self._new_optimizer(len(space))
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        generations = _by_generation(completed, space)
        while len(members := generations[optimizer.generation]) >= optimizer.population_size:
            solutions = [
                (transform.transform(member.params), sign * member.values[0])
                for member in members[: optimizer.population_size]
            ]
            try:
                optimizer.tell(solutions)
            except (AssertionError, np.linalg.LinAlgError, ValueError, OverflowError):
                optimizer = self._new_optimizer(
                    len(space)
                )  # no distribution has led to these values
                break
        return Generation(trial.number, transform, optimizer)

    def _new_optimizer(self, dimensions: int) -> cmaes.CMA | cmaes.SepCMA:
        """The optimizer of the first generation, in the unit cube."""
        arguments: dict[str, Any] = {
            "mean": np.full(dimensions, 0.5),
            "sigma": self.sigma,
            "bounds": np.tile([0.0, 1.0], (dimensions, 1)),
            "seed": int(self._random.randint(1, MAX_SEED)),
            "n_max_resampling": 10 * dimensions,
            "population_size": self.popsize,
        }
        if self.separable and dimensions > 1:
            return cmaes.SepCMA(**arguments)
        return cmaes.CMA(**arguments, lr_adapt=self.lr_adapt)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """At random: choices, and whatever not every trial has.

        Raises:
            ValueError: the study has more than one objective.
        """
        self._raise_error_if_multi_objective(study)
        return self._independent.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()
        self._random.seed()


def _by_generation(completed: Sequence[FrozenTrial], space: Space) -> dict[int, list[FrozenTrial]]:
    """The trials that can be told, by the generation that they were drawn for, in the order in
    which they ended."""
    generations: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in sorted(completed, key=_completion_key):
        generation = trial.system_attrs.get(GENERATION)
        if type(generation) is int and _is_solution(trial, space):
            generations[generation].append(trial)
    return generations


def _completion_key(trial: FrozenTrial) -> tuple[str, int]:
    time = trial.datetime_complete
    return (time.isoformat() if time else "", trial.number)


def _is_solution(trial: FrozenTrial, space: Space) -> bool:
    """Whether a trial has a value, and lies within the space."""
    if not trial.values or not _is_number(trial.values[0]):
        return False
    return all(
        _is_number(trial.params.get(name))
        and distribution.low <= trial.params[name] <= distribution.high
        for name, distribution in space.items()
        if isinstance(distribution, FloatDistribution | IntDistribution)
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -MAX_VALUE < value < MAX_VALUE
