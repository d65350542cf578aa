"""How one checkpoint is selected from many: pure functions of scorecards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from evaluate.config import LOSSES, PolicyConfig
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.explain import explain, what_came_later
from evaluate.selection.objective import (
    deciding,
    fidelity,
    objective,
    paired_difference,
    pareto,
    total_violation,
    violations,
    worth,
)
from train.errors import ConfigError

BY_MERIT = ("min_validation_loss", "max_subject_fidelity", "weighted")  # whatever the limits
NEEDED = {
    "min_validation_loss": "validation_loss; hold out pictures for it",
    "max_subject_fidelity": "subject_fidelity",
}


@dataclass(frozen=True)
class Selection:
    """The checkpoint to keep, and why.

    Attributes:
        feasible: it keeps all the limits.
        fidelity, violations: see `evaluate.selection.objective`.
        rank: greater is better, to compare the selections of different runs.
        reasons: two plain sentences; one more for each thing that could not be looked at.
        later: what the epochs after it did wrong; empty where nothing or where there are none.
        front: the checkpoints that no other beats in fidelity and memorisation.
    """

    scorecard: Scorecard
    feasible: bool
    fidelity: float | None
    rank: tuple[bool, float]
    violations: dict[str, float]
    reasons: list[str]
    later: str
    front: list[Scorecard]


def select(scorecards: list[Scorecard], policy: PolicyConfig) -> Selection:
    """The checkpoint to keep, by the policy's rule.

    - overfit_aware: among those within the limits the highest fidelity; those that are not behind
      it by more than `standard_errors` count as equal, and the earliest epoch of these wins.
    - pareto: of those that no other beats in fidelity and pose_memorization, the highest fidelity
      within the limits.
    - last; epoch: the last one up to `policy.epoch`, or where that is before them all, the first.
    - min_validation_loss, max_subject_fidelity, weighted (the sum of `policy.weights`): the best
      by that alone, whatever the limits.

    Where the first two find none within the limits: the one whose violations add up to the least.
    Where the fidelity cannot be told they go by the validation loss, and where there is none by the
    epoch: the last one within the limits. A checkpoint that failed is never selected.

    Raises:
        ValueError: no scorecard that did not fail, no such epoch, or a score that none has.
    """
    cards = usable(scorecards)
    if not cards:
        raise ValueError("there is no scorecard to select from")
    front = pareto(cards)
    best = _best(cards, front, policy)
    pick = _earliest_equal(cards, best, policy) if policy.rule == "overfit_aware" else best
    later = what_came_later(scorecards, pick, policy)
    return Selection(
        scorecard=pick,
        feasible=total_violation(pick, policy) <= 0,
        fidelity=fidelity(pick),
        rank=rank_of(pick, policy),
        violations=violations(pick, policy),
        reasons=explain(cards, pick, best, later, policy),
        later=later,
        front=front,
    )


def rank_of(pick: Scorecard, policy: PolicyConfig) -> tuple[bool, float]:
    """Within the limits or not (where the rule looks at them), then merit or the least excess.

    Greater is better, whatever trials or runs two checkpoints are of.
    """
    by_merit = policy.rule in BY_MERIT and not pick.failure
    over = 0.0 if by_merit else total_violation(pick, policy)
    return (over <= 0, -over if over > 0 else objective(pick, policy))


def check_scores(policy: PolicyConfig, names: Collection[str]) -> None:
    """Refuses a policy that looks at a score which these pictures cannot have.

    Raises:
        ConfigError: naming it.
    """
    needed = {
        "min_validation_loss": {"validation_loss"},
        "max_subject_fidelity": {"subject_fidelity"},
        "weighted": {*policy.weights},
    }.get(policy.rule, set())
    if needed & {*names}:
        return  # a weighted sum leaves out what cannot be told, and its reasons say so
    for name in sorted(needed):
        hint = " without held-out pictures" if name in LOSSES else " with these pictures and probes"
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
        found = [card for card in cards if card.epoch <= policy.epoch]
        return max(found, key=lambda card: card.epoch, default=first)
    if policy.rule in BY_MERIT:
        if all(objective(card, policy) == -inf for card in cards):
            names = ", ".join(policy.weights) if policy.rule == "weighted" else NEEDED[policy.rule]
            raise ValueError(f"policy.rule {policy.rule}: the scorecards have no {names}")
        return max(cards, key=lambda card: (objective(card, policy), -card.epoch))
    choice = front if policy.rule == "pareto" else cards
    feasible = [card for card in choice if total_violation(card, policy) <= 0]
    if not feasible:
        return min(choice, key=lambda card: (total_violation(card, policy), card.epoch))
    told = any(deciding(card) for card in feasible)
    return max(feasible, key=lambda card: (worth(card), -card.epoch if told else card.epoch))


def _earliest_equal(cards: list[Scorecard], best: Scorecard, policy: PolicyConfig) -> Scorecard:
    """The earliest that is within the limits and not surely behind the best."""
    if total_violation(best, policy) > 0 or not deciding(best):
        return best
    equal = [
        card
        for card in cards
        if total_violation(card, policy) <= 0 and not is_behind(card, best, policy.standard_errors)
    ]
    first = min(card.epoch for card in equal)
    return max((card for card in equal if card.epoch == first), key=worth)


def is_behind(card: Scorecard, best: Scorecard, standard_errors: float) -> bool:
    """Whether its worth is lower by more than chance would have it."""
    ahead = paired_difference(best, card)
    return ahead.value > standard_errors * ahead.error
