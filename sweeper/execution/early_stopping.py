"""Reasons to stop a trial early: each rule reads the scorecards so far."""

from __future__ import annotations

from collections.abc import Callable

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.diagnosis import NOTHING
from evaluate.selection.objective import deciding, total_violation, worth
from evaluate.selection.policy import select
from sweeper.study.trial_lease import LeasedTrial

Rule = Callable[[list[Scorecard]], str]  # the reason to stop; empty: go on


def stop_on_memorization(policy: PolicyConfig, patience: int) -> Rule:
    """Stops when a score's whole interval is beyond its limit at `in_a_row` scored epochs.

    More training does not undo memorization, so later epochs can only be worse. It also stops when
    as many checkpoints in a row are unusable.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        """The score that is beyond its limit, in words."""
        if not patience or len(scorecards) < patience:
            return ""
        last = scorecards[-patience:]
        if all(card.failure for card in last):
            return f"diverged: at {last[-1].label} {last[-1].failure}"
        latest = last[-1].scores
        shared = {name for name in latest if all(name in card.scores for card in last)}
        for name in (n for n in policy.max if n in shared):
            limit, low = policy.max[name], latest[name].low
            if all(card.scores[name].low > limit for card in last):
                return f"memorized: {name} is surely above {low:.2f}, and {limit:g} is the limit"
        for name in (n for n in policy.min if n in shared):
            floor, high = policy.min[name], latest[name].high
            if all(card.scores[name].high < floor for card in last):
                return f"overfitted: {name} is surely below {high:.2f}, and {floor:g} is wanted"
        return ""

    return rule


def stop_if_pruned(trial: LeasedTrial, policy: PolicyConfig) -> Rule:
    """Reports each epoch's objective to Optuna's pruner, and stops when it says so.

    The objective is that of the last epoch, not of the best one so far, which the trial keeps
    anyway: the question is whether more epochs are worth their time.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        last = scorecards[-1]
        # an epoch that is not feasible is the worst that can be reported
        value = worth(last) if total_violation(last, policy) <= 0 else 0.0
        trial.report(last.epoch, value)
        if trial.should_prune():
            performance = f"with {value:.2f} overall" if value else "over a limit"
            return f"pruned: {performance} it is behind the other trials"
        return ""

    return rule


def stop_on_plateau(policy: PolicyConfig, patience: int) -> Rule:
    """Stops a run whose best epoch has stayed the same for `epochs` scored epochs.

    The later ones were not better by more than chance, or over a limit. This is early stopping as
    it is done with a loss.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        if not patience or len(scorecards) <= patience or not any(map(deciding, scorecards)):
            return ""  # nothing tells a better epoch from a worse one
        best = select(scorecards, policy).scorecard
        since = len(scorecards) - 1 - scorecards.index(best)
        if since < patience:
            return ""
        return f"settled: none of the last {since} scored epochs is better than {best.label}"

    return rule


def stop_without_learning(min_share: float, epochs: int) -> Rule:
    """Stops a run that after a share of its epochs has surely learned nothing of the subject.

    That is, the upper bound of its likeness is one that the diagnosis calls none. If likeness is
    undefined, as with a single training image, the rule does not apply.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        last = scorecards[-1]
        likeness = last.scores.get("subject_fidelity")
        if (
            likeness is None
            or not min_share
            or last.epoch < min_share * epochs
            or likeness.high >= NOTHING
        ):
            return ""
        return f"no learning: subject_fidelity is at most {likeness.high:.2f} at {last.label}"

    return rule


def stop_after(epoch: int) -> Rule:
    """Stops after an epoch."""

    def rule(scorecards: list[Scorecard]) -> str:
        return f"it was asked for {epoch} epochs" if scorecards[-1].epoch >= epoch else ""

    return rule
