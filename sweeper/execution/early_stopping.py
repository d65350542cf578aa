"""Rules that stop a trial early, based on its scorecards so far."""

from __future__ import annotations

from collections.abc import Callable

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.diagnosis import has_learned
from evaluate.selection.explain import describe_exceeded
from evaluate.selection.objective import comparison_value, deciding_scores, total_violation
from evaluate.selection.policy import select
from sweeper.study.trial_lease import LeasedTrial

Rule = Callable[[list[Scorecard]], str]  # returns the reason to stop; empty to continue


def stop_on_memorization(policy: PolicyConfig, patience: int) -> Rule:
    """Stops if a score's whole interval is beyond its limit at the last `patience` scored epochs.

    More training does not undo memorization, so later epochs can only be worse. Also stops if all
    of these checkpoints are unusable.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        """Names the score that is beyond its limit."""
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
                return f"memorized: {name} is above its limit of {limit:g} (at least {low:.2f})"
        for name in (n for n in policy.min if n in shared):
            floor, high = policy.min[name], latest[name].high
            if all(card.scores[name].high < floor for card in last):
                return f"overfitted: {name} is below its minimum of {floor:g} (at most {high:.2f})"
        return ""

    return rule


def stop_if_pruned(trial: LeasedTrial, policy: PolicyConfig) -> Rule:
    """Reports each epoch's objective to Optuna's pruner, and stops if the pruner says so.

    It reports the latest epoch, not the best one so far, which the trial keeps anyway: the
    question is whether more epochs are worth their time.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        last = scorecards[-1]
        # an infeasible epoch gets the worst value
        over = total_violation(last, policy) > 0
        value = 0.0 if over else comparison_value(last)
        trial.report(last.epoch, value)
        if trial.should_prune():
            state = describe_exceeded(last, policy) if over else f"a fidelity of {value:.2f}"
            return f"pruned: behind the other trials at {last.label}: {state}"
        return ""

    return rule


def stop_on_plateau(policy: PolicyConfig, patience: int) -> Rule:
    """Stops a trial whose best epoch has stayed the same for `patience` scored epochs.

    Later epochs were not significantly better, or over a limit. This is like early stopping on a
    validation loss.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        if not patience or len(scorecards) <= patience or not any(map(deciding_scores, scorecards)):
            return ""  # no score distinguishes the epochs
        best = select(scorecards, policy).scorecard
        since = len(scorecards) - 1 - scorecards.index(best)
        if since < patience:
            return ""
        return f"plateaued: none of the last {since} scored epochs is better than {best.label}"

    return rule


def stop_without_learning(min_share: float, epochs: int) -> Rule:
    """Stops a trial that has clearly learned nothing about the subject after a share of its epochs.

    That is, the upper bound of its likeness is below the diagnosis's threshold for learning
    nothing. The rule does not apply if likeness is undefined, as with a single training image.

    Args:
        min_share: the share of all epochs after which the rule applies; 0 turns it off.
        epochs: total number of epochs.
    """

    def rule(scorecards: list[Scorecard]) -> str:
        last = scorecards[-1]
        likeness = last.scores.get("subject_fidelity")
        if (
            likeness is None
            or not min_share
            or last.epoch < min_share * epochs
            or has_learned(last)
        ):
            return ""
        return f"no learning: subject_fidelity is at most {likeness.high:.2f} at {last.label}"

    return rule


def stop_after(epoch: int) -> Rule:
    """Stops a trial after the given epoch."""

    def rule(scorecards: list[Scorecard]) -> str:
        return f"it was limited to {epoch} epochs" if scorecards[-1].epoch >= epoch else ""

    return rule
