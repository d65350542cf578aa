"""A pruner for trials that differ in how fast they learn."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial


class ExtrapolationPruner(BasePruner):
    """Stops a trial that will not come to the best of the others, even if it goes on as it does.

    A comparison at equal epochs, as Optuna's pruners make it, takes the fast for the good: a slow
    learner is behind at first and ahead in the end, where the fast one has overfitted. Here a
    trial's own pace is looked at, and what it comes to by its last epoch.

    Args:
        epochs: the last epoch.
        min_epochs: epochs that every trial gets.
        window: number of reports over which the improvement per epoch is averaged.
        slope_discount: the share of its pace that a trial is trusted to keep, since learning
            curves flatten.

    Raises:
        ValueError: for a window below 1.
    """

    def __init__(self, epochs: int, min_epochs: int, window: int, slope_discount: float) -> None:
        if window < 1:
            raise ValueError(f"window: {window} must be 1 or more")
        self.epochs, self.min_epochs = epochs, min_epochs
        self.window, self.slope_discount = window, slope_discount

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop it after the value that it has reported last; greater is better."""
        reports = sorted(trial.intermediate_values.items())
        if len(reports) < 2:
            return False
        (first, first_value), (last, last_value) = reports[-self.window - 1 :][0], reports[-1]
        if not self.min_epochs <= last < self.epochs:  # at its last epoch it is over anyway
            return False
        slope = self.slope_discount * (last_value - first_value) / (last - first)
        best = max(value for _, value in reports)
        extrapolated = max(best, last_value + slope * (self.epochs - last))
        trials = study.get_trials(deepcopy=False)  # it is among them, and its own best is in reach
        return any(
            extrapolated < value for other in trials for value in other.intermediate_values.values()
        )
