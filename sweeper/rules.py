"""Reasons to stop a trial early: each rule reads the scorecards so far."""

from __future__ import annotations

from collections.abc import Callable

from evaluate.choice.policy import select
from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard
from sweeper.study import StudyTrial

Rule = Callable[[list[Scorecard]], str]  # the reason to stop; empty: go on


def memorised(policy: PolicyConfig, in_a_row: int, min_epochs: int) -> Rule:
    """Stops when a score is surely beyond its limit or floor at `in_a_row` scored epochs.

    Surely: its whole interval is. What was learned by heart is not unlearned by training on, so
    the epochs to come can only be worse.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        """The score that is beyond its limit, in words."""
        if not in_a_row or len(scorecards) < max(in_a_row, min_epochs):
            return ""
        last = scorecards[-in_a_row:]
        told = last[-1].scores
        for name in (n for n in policy.limits if n in told):
            limit, low = policy.limits[name], told[name].low
            if all(card.scores[name].low > limit for card in last):
                return f"memorised: {name} is surely above {low:.2f}, and {limit:g} is the limit"
        for name in (n for n in policy.floors if n in told):
            floor, high = policy.floors[name], told[name].high
            if all(card.scores[name].high < floor for card in last):
                return f"overfitted: {name} is surely below {high:.2f}, and {floor:g} is wanted"
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
