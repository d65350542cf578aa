"""A pruner for trials that differ in how fast they learn."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial


class ExtrapolationPruner(BasePruner):
    """Stops a trial that, at its current pace, will not match the best of the other trials.

    Optuna's pruners compare trials at equal epochs, which favors fast learners: a slow one is
    behind at first, but ahead in the end, when the fast one has overfitted. This pruner
    extrapolates each trial's own learning curve to its last epoch.

    Args:
        epochs: the last epoch.
        min_epochs: number of epochs that every trial is allowed.
        window: number of reports over which the improvement per epoch is averaged.
        slope_discount: factor on the extrapolated slope, because learning curves flatten.

    Raises:
        ValueError: the window is less than 1.
    """

    def __init__(self, epochs: int, min_epochs: int, window: int, slope_discount: float) -> None:
        if window < 1:
            raise ValueError(f"window: {window} must be 1 or more")
        self.epochs, self.min_epochs = epochs, min_epochs
        self.window, self.slope_discount = window, slope_discount

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial after its latest report; greater values are better."""
        reports = sorted(trial.intermediate_values.items())
        if len(reports) < 2:
            return False
        (first, first_value), (last, last_value) = reports[-self.window - 1 :][0], reports[-1]
        if not self.min_epochs <= last < self.epochs:  # after its last epoch it ends anyway
            return False
        slope = self.slope_discount * (last_value - first_value) / (last - first)
        best = max(value for _, value in reports)
        extrapolated = max(best, last_value + slope * (self.epochs - last))
        # the trial itself is among them, but its own values never exceed `extrapolated`
        trials = study.get_trials(deepcopy=False)
        return any(
            extrapolated < value for other in trials for value in other.intermediate_values.values()
        )
