"""A CMA-ES sampler that stores only an integer with each trial.

Optuna's own sampler pickles its optimizer into the study, and unpickles whatever it finds there.
This one rebuilds the optimizer for each proposal from the trials' settings, their values, and the
generation that each trial was sampled for.
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

GENERATION = "cma:generation"  # system attribute of a trial; Optuna's sampler uses the same name
DEFAULT_SIGMA = 1 / 6  # of the first generation, as a share of each setting's range
MIN_SIGMA = 1e-10  # a sigma of 0 is no distribution
MAX_VALUE = 1e300  # excludes NaN, infinity, and integers that are too large for a float
MAX_SEED = 2**31 - 2

Numbers = NDArray[np.float64]
Space = dict[str, BaseDistribution]


@dataclass
class Generation:
    """The distribution of one generation, from which one trial is sampled.

    Attributes:
        trial: number of the trial.
        optimizer: CMA-ES after all earlier generations.
    """

    trial: int
    transform: _SearchSpaceTransform
    optimizer: cmaes.CMA | cmaes.SepCMA

    def sample(self) -> dict[str, Any]:
        """Samples another point; empty if the distribution has degenerated."""
        try:
            point = self.optimizer.ask()
        except (np.linalg.LinAlgError, ValueError):
            return {}
        return self.transform.untransform(point) if np.isfinite(point).all() else {}


class CmaEsSampler(BaseSampler):
    """Covariance matrix adaptation (Hansen 2016) over the numeric settings.

    Its proposals depend only on the study and the seed, not on the process that asks.

    Args:
        n_startup_trials: number of finished trials before which all settings are sampled randomly.
        popsize: trials per generation; None: 4 + 3 ln(dimensions).
        sigma0: standard deviation of the first generation, as a share of each setting's range.
        use_separable_cma: adapts each setting by itself (Ros and Hansen 2008).
        lr_adapt: adapts the learning rates, for noisy objectives (Nomura et al. 2023).

    Raises:
        ValueError: `lr_adapt` and `use_separable_cma` are both set.
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
            raise ValueError("lr_adapt cannot be combined with use_separable_cma")
        self.n_startup_trials, self.popsize = n_startup_trials, popsize
        self.sigma = max(DEFAULT_SIGMA if sigma0 is None else sigma0, MIN_SIGMA)
        self.separable, self.lr_adapt = use_separable_cma, lr_adapt
        self._independent = RandomSampler(seed=seed)
        self._random = np.random.RandomState(seed)
        self._intersection = IntersectionSearchSpace()
        self._generation: Generation | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """The numeric settings that every finished trial has."""
        return {
            name: distribution
            for name, distribution in self._intersection.calculate(study).items()
            if isinstance(distribution, FloatDistribution | IntDistribution)
            and not distribution.single()
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """Samples from the current generation; each call for a trial returns another point.

        Raises:
            ValueError: the study has more than one objective.
        """
        self._raise_error_if_multi_objective(study)
        if self._generation is None or self._generation.trial != trial.number:
            completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if not search_space or len(completed) < self.n_startup_trials:
                return {}
            self._generation = self._replay(study, trial, completed, search_space)
            if not trial.params:  # otherwise it was sampled before, and its process crashed
                generation = self._generation.optimizer.generation
                study._storage.set_trial_system_attr(trial._trial_id, GENERATION, generation)
        return self._generation.sample()

    def _replay(
        self, study: Study, trial: FrozenTrial, completed: list[FrozenTrial], space: Space
    ) -> Generation:
        """Rebuilds the optimizer by replaying every complete generation in order."""
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
                # these values cannot have come from this sampler: start over
                optimizer = self._new_optimizer(len(space))
                break
        return Generation(trial.number, transform, optimizer)

    def _new_optimizer(self, dimensions: int) -> cmaes.CMA | cmaes.SepCMA:
        """The optimizer of the first generation, in the unit hypercube."""
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
        """Samples randomly: categorical settings, and those that not every trial has.

        Raises:
            ValueError: the study has more than one objective.
        """
        self._raise_error_if_multi_objective(study)
        return self._independent.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()
        self._random.seed()


def _by_generation(completed: Sequence[FrozenTrial], space: Space) -> dict[int, list[FrozenTrial]]:
    """The usable trials by the generation that they were sampled for, in the order they ended."""
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
    """Whether a trial has a value and lies within the space."""
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
