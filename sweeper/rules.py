"""Reasons to stop a trial early: each rule reads the scorecards so far."""

from __future__ import annotations

from collections.abc import Callable

from evaluate.choice.policy import select
from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard
from sweeper.study import StudyTrial

Rule = Callable[[list[Scorecard]], str]  # the reason to stop; empty: go on


def memorised(policy: PolicyConfig, in_a_row: int, min_epochs: int) -> Rule:
    """Stops when a score is surely over its limit at the last `in_a_row` scored epochs.

    Surely: the lower bound of its interval is. What was learned by heart is not unlearned by
    training on, so the epochs to come can only be worse.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        if not in_a_row or len(scorecards) < max(in_a_row, min_epochs):
            return ""
        last = scorecards[-in_a_row:]
        told = {n: limit for n, limit in policy.limits.items() if n in last[-1].scores}
        for name, limit in told.items():
            if all(card.scores[name].low > limit for card in last):
                low = last[-1].scores[name].low
                return f"memorised: {name} is surely above {low:.2f}, and {limit:g} is the limit"
        return ""

    return rule


def pruned(trial: StudyTrial, policy: PolicyConfig, min_epochs: int) -> Rule:
    """Reports the best feasible fidelity so far, and stops where Optuna's pruner says so."""

    def rule(scorecards: list[Scorecard]) -> str:
        best = select(scorecards, policy)
        # nothing feasible so far is the worst that can be reported
        trial.report(scorecards[-1].epoch, best.fidelity if best.feasible else 0.0)
        if len(scorecards) >= min_epochs and trial.should_prune():
            return f"pruned: its best so far, {best.fidelity:.2f}, is behind the other trials"
        return ""

    return rule


def until(epoch: int) -> Rule:
    """Stops after an epoch."""

    def rule(scorecards: list[Scorecard]) -> str:
        return f"it was asked for {epoch} epochs" if scorecards[-1].epoch >= epoch else ""

    return rule
