"""A trial of a study that is leased by this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import SoftFileLease, Timeout
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.conditional_params import is_active
from sweeper.search.search_space import Params, Space
from sweeper.study.study_attributes import crash_count_of
from sweeper.tracking.trial_record import LEASE_FILE, trial_folder

# seconds without a heartbeat after which a worker on another machine counts as crashed; a crash on
# the same machine is detected at once
LEASE_SECONDS = 60.0


@dataclass
class LeasedTrial:
    """A trial in the storage, held by this process until it is released."""

    study: optuna.Study
    number: int
    folder: Path
    lock: SoftFileLease

    def __enter__(self) -> LeasedTrial:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Releases the lease, so that any worker can acquire it."""
        self.lock.release(force=True)

    @property
    def lost(self) -> bool:
        """Whether another worker has taken it over, because this one missed its heartbeats."""
        return self.lock.compromise is not None

    @property
    def params(self) -> Params:
        return self.frozen.params

    @property
    def frozen(self) -> FrozenTrial:
        return self.study.trials[self.number]

    @property
    def finished(self) -> bool:
        return self.frozen.state.is_finished()

    @property
    def crash_count(self) -> int:
        """Number of times its process crashed."""
        return crash_count_of(self.frozen)

    def report(self, epoch: int, value: float) -> None:
        """Reports an epoch's value to the pruner, once."""
        if self.comparable and epoch not in self.frozen.intermediate_values:
            self._trial.report(value, epoch)

    def should_prune(self) -> bool:
        return self.comparable and self._trial.should_prune()

    @property
    def comparable(self) -> bool:
        """Whether the pruner can compare it: the study has one objective, and the trial is not
        finished."""
        return len(self.study.directions) == 1 and not self.finished

    def complete(self, values: Sequence[float], violations: dict[str, float]) -> None:
        """Tells Optuna the objectives and the constraints, unless the trial is finished already.

        Args:
            values: fidelity and memorization; the study uses as many as it has directions.
            violations: constraint -> by how much it is exceeded (0 or less: satisfied).
        """
        if self.finished:
            return
        trial = self._trial
        for name, violation in violations.items():
            if name not in trial.constraints:  # a process that then crashed may have set it
                trial.set_constraint(name, violation)
        objectives = list(values[: len(self.study.directions)])
        self.study.tell(self.number, objectives, skip_if_finished=True)

    def fail(self) -> None:
        self.study.tell(self.number, state=TrialState.FAIL, skip_if_finished=True)

    @property
    def _trial(self) -> optuna.Trial:
        return live_trial(self.study, self.number)


def acquire(study: optuna.Study, folder: Path, number: int) -> LeasedTrial | None:
    """Leases a trial; returns None if a living process holds it.

    Args:
        folder: the study's folder.
    """
    trial_path, lock = trial_folder(folder, number), lease_lock(folder, number)
    if lock.is_locked:
        return None
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return LeasedTrial(study, number, trial_path, lock)


def lease_lock(folder: Path, number: int) -> SoftFileLease:
    """The lock of a trial, with its holder's heartbeat; a singleton per trial."""
    trial_path = trial_folder(folder, number)
    trial_path.mkdir(parents=True, exist_ok=True)
    return SoftFileLease(
        trial_path / LEASE_FILE, lease_duration=LEASE_SECONDS, thread_local=False, is_singleton=True
    )


def live_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Optuna's handle of a running trial."""
    storage = study._storage
    trial = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return optuna.Trial(study, trial)


def suggest_all(trial: optuna.Trial, space: Space) -> None:
    """Suggests a value for each dimension that is active, given the values before it."""
    for name, distribution in space.distributions.items():
        if is_active(name, trial.params):
            suggest(trial, name, distribution)


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Suggests a value for one dimension; returns the existing one if the trial has it already."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )
