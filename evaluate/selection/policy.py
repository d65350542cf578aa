"""The policies that select one checkpoint from many: pure functions of scorecards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from evaluate.config import LOSSES, PolicyConfig
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.explain import describe_later, explain
from evaluate.selection.explain_verdict import explain_verdict
from evaluate.selection.objective import (
    comparison_value,
    deciding_scores,
    fidelity,
    objective,
    paired_difference,
    pareto,
    total_violation,
    violations,
)
from evaluate.selection.verdict import Verdict
from train.errors import ConfigError

UNCONSTRAINED = ("min_validation_loss", "max_subject_fidelity", "weighted")  # ignore the limits
NEEDED = {
    "min_validation_loss": "validation_loss; hold out images for it",
    "max_subject_fidelity": "subject_fidelity",
}


@dataclass(frozen=True)
class Selection:
    """The checkpoint to keep, and why.

    Attributes:
        feasible: it is within all limits.
        fidelity, violations: see `evaluate.selection.objective`.
        rank: greater is better; comparable across runs.
        reasons: two plain sentences, and one for each score that could not be considered.
        later: what later epochs did wrong; empty if nothing, or if there are none.
        front: the Pareto front of fidelity and memorization.
        verdict: of the final that decided; None if the first look did.
    """

    scorecard: Scorecard
    feasible: bool
    fidelity: float | None
    rank: tuple[bool, float]
    violations: dict[str, float]
    reasons: list[str]
    later: str
    front: list[Scorecard]
    verdict: Verdict | None = None

    @property
    def reported(self) -> Scorecard:
        """The scores to report: of the final, if there was one, which no decision has biased."""
        return self.verdict.reported if self.verdict else self.scorecard


def select(
    scorecards: list[Scorecard], policy: PolicyConfig, verdict: Verdict | None = None
) -> Selection:
    """The checkpoint to keep, by the policy's rule.

    - overfit_aware: the highest fidelity among those within the limits; checkpoints that are not
      behind it by more than `standard_errors` count as equal, and the earliest of these wins.
    - pareto: the highest fidelity within the limits on the Pareto front of fidelity and
      pose_memorization.
    - last; epoch: the last checkpoint up to `policy.epoch`, or the first if all are later.
    - min_validation_loss, max_subject_fidelity, weighted (the sum of `policy.weights`): the best
      by that value alone, without limits.

    If none is within the limits, the first two take the least total violation. If the fidelity is
    undefined, they use the validation loss, and without that the epoch: the last one within the
    limits. A checkpoint that failed is never selected.

    Args:
        verdict: of a final between some of the checkpoints, which decides.

    Raises:
        ValueError: all checkpoints failed, no such epoch, or a score that none has.
    """
    cards = usable(scorecards)
    if not cards:
        raise ValueError("there is no scorecard to select from")
    front = pareto(cards)
    if verdict is not None:
        selected = best = verdict.winner.first
    else:
        best = _best(cards, front, policy)
        selected = _earliest_equal(cards, best, policy) if policy.rule == "overfit_aware" else best
    reported = verdict.reported if verdict else selected
    later = describe_later(scorecards, selected, policy)
    reasons = (
        explain_verdict(verdict, later, policy)
        if verdict
        else explain(cards, selected, best, later, policy)
    )
    return Selection(
        scorecard=selected,
        feasible=total_violation(reported, policy) <= 0,
        fidelity=fidelity(reported),
        rank=rank_of(reported, policy),
        violations=violations(reported, policy),
        reasons=reasons,
        later=later,
        front=front,
        verdict=verdict,
    )


def rank_of(selected: Scorecard, policy: PolicyConfig) -> tuple[bool, float]:
    """Feasible or not (if the rule has limits), then the objective or the negative violation.

    Greater is better; comparable across trials and runs.
    """
    unconstrained = policy.rule in UNCONSTRAINED and not selected.failure
    over = 0.0 if unconstrained else total_violation(selected, policy)
    return (over <= 0, -over if over > 0 else objective(selected, policy))


def check_scores(policy: PolicyConfig, names: Collection[str]) -> None:
    """Rejects a policy that needs a score which these images do not define.

    Raises:
        ConfigError: naming the score.
    """
    needed = {
        "min_validation_loss": {"validation_loss"},
        "max_subject_fidelity": {"subject_fidelity"},
        "weighted": {*policy.weights},
    }.get(policy.rule, set())
    if needed & {*names}:
        return  # a weighted sum leaves out undefined scores, and its reasons say so
    for name in sorted(needed):
        hint = " without held-out images" if name in LOSSES else " with these images and probes"
        raise ConfigError(f"policy: there is no {name}{hint}")


def _best(cards: list[Scorecard], front: list[Scorecard], policy: PolicyConfig) -> Scorecard:
    if policy.rule == "last":
        return max(cards, key=lambda card: card.epoch)
    if policy.rule == "epoch":
        first = min(cards, key=lambda card: card.epoch)
        if policy.epoch < 1:
            raise ValueError(
                f"policy.epoch: {policy.epoch} is before the first scored, {first.epoch}"
            )
        until = [card for card in cards if card.epoch <= policy.epoch]
        return max(until, key=lambda card: card.epoch, default=first)
    if policy.rule in UNCONSTRAINED:
        if all(objective(card, policy) == -inf for card in cards):
            names = ", ".join(policy.weights) if policy.rule == "weighted" else NEEDED[policy.rule]
            raise ValueError(f"policy.rule {policy.rule}: the scorecards have no {names}")
        return max(cards, key=lambda card: (objective(card, policy), -card.epoch))
    candidates = front if policy.rule == "pareto" else cards
    feasible = [card for card in candidates if total_violation(card, policy) <= 0]
    if not feasible:
        return min(candidates, key=lambda card: (total_violation(card, policy), card.epoch))
    comparable = any(deciding_scores(card) for card in feasible)
    return max(
        feasible,
        key=lambda card: (comparison_value(card), -card.epoch if comparable else card.epoch),
    )


def _earliest_equal(cards: list[Scorecard], best: Scorecard, policy: PolicyConfig) -> Scorecard:
    """The earliest checkpoint within the limits that is not significantly behind the best."""
    if total_violation(best, policy) > 0 or not deciding_scores(best):
        return best
    equal = [
        card
        for card in cards
        if total_violation(card, policy) <= 0 and not is_behind(card, best, policy.standard_errors)
    ]
    first = min(card.epoch for card in equal)
    return max((card for card in equal if card.epoch == first), key=comparison_value)


def is_behind(card: Scorecard, best: Scorecard, standard_errors: float) -> bool:
    """Whether its worth is lower by more than `standard_errors` of the paired difference."""
    lead = paired_difference(best, card)
    return lead.value > standard_errors * lead.error
