"""How one checkpoint is selected from many: pure functions of scorecards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from evaluate.choice.merit import excess, fidelity, lead, merit, pareto, violations
from evaluate.choice.reasons import explain, what_came_later
from evaluate.config import LOSSES, PolicyConfig
from evaluate.scorecard import Scorecard
from train.config import ConfigError

BY_MERIT = ("min_validation_loss", "max_subject_fidelity", "weighted")  # whatever the limits


@dataclass(frozen=True)
class Selection:
    """The checkpoint to keep, and why.

    Attributes:
        feasible: it keeps all the limits.
        fidelity, violations: see `evaluate.choice.merit`.
        rank: greater is better, to compare the selections of different runs.
        reasons: two plain sentences.
        later: what the epochs after it did wrong; empty where nothing or where there are none.
        front: the checkpoints that no other beats in fidelity and memorisation.
    """

    scorecard: Scorecard
    feasible: bool
    fidelity: float
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
    - last; epoch: the last one up to `policy.epoch`.
    - min_validation_loss, max_subject_fidelity, weighted (the sum of `policy.weights`): the best
      by that alone, whatever the limits.

    Where the first two find none within the limits: the one whose violations add up to the least.

    Raises:
        ValueError: no scorecards, no such epoch, or a score that they do not have.
    """
    if not scorecards:
        raise ValueError("there is no scorecard to select from")
    front = pareto(scorecards)
    best = _best(scorecards, front, policy)
    pick = _earliest_equal(scorecards, best, policy) if policy.rule == "overfit_aware" else best
    later = what_came_later(scorecards, pick, policy)
    return Selection(
        scorecard=pick,
        feasible=excess(pick, policy) <= 0,
        fidelity=fidelity(pick),
        rank=rank_of(pick, policy),
        violations=violations(pick, policy),
        reasons=explain(scorecards, pick, best, later, policy),
        later=later,
        front=front,
    )


def rank_of(pick: Scorecard, policy: PolicyConfig) -> tuple[bool, float]:
    """Within the limits or not (where the rule looks at them), then merit or the least excess.

    Greater is better, whatever trials or runs two checkpoints are of.
    """
    over = 0.0 if policy.rule in BY_MERIT else excess(pick, policy)
    return (over <= 0, -over if over > 0 else merit(pick, policy))


def check_scores(policy: PolicyConfig, names: Collection[str]) -> None:
    """Refuses a policy that looks at a score which these pictures cannot have.

    Raises:
        ConfigError: naming it.
    """
    needed = {"validation_loss"} if policy.rule == "min_validation_loss" else set()
    needed |= {*policy.weights} if policy.rule == "weighted" else set()
    for name in sorted(needed - {*names}):
        hint = " without held-out pictures" if name in LOSSES else " with this probe set"
        raise ConfigError(f"policy: there is no {name}{hint}")


def _best(cards: list[Scorecard], front: list[Scorecard], policy: PolicyConfig) -> Scorecard:
    if policy.rule == "last":
        return max(cards, key=lambda card: card.epoch)
    if policy.rule == "epoch":
        found = [card for card in cards if card.epoch <= policy.epoch]
        if not found:
            first = min(card.epoch for card in cards)
            raise ValueError(f"policy.epoch: {policy.epoch} is before the first scored, {first}")
        return max(found, key=lambda card: card.epoch)
    if policy.rule not in ("overfit_aware", "pareto"):
        return max(cards, key=lambda card: (merit(card, policy), -card.epoch))
    choice = front if policy.rule == "pareto" else cards
    feasible = [card for card in choice if excess(card, policy) <= 0]
    if not feasible:
        return min(choice, key=lambda card: (excess(card, policy), card.epoch))
    return max(feasible, key=lambda card: (fidelity(card), -card.epoch))


def _earliest_equal(cards: list[Scorecard], best: Scorecard, policy: PolicyConfig) -> Scorecard:
    """The earliest that is within the limits and not surely behind the best."""
    if excess(best, policy) > 0:
        return best
    equal = [
        card
        for card in cards
        if excess(card, policy) <= 0 and not is_behind(card, best, policy.standard_errors)
    ]
    first = min(card.epoch for card in equal)
    return max((card for card in equal if card.epoch == first), key=fidelity)


def is_behind(card: Scorecard, best: Scorecard, standard_errors: float) -> bool:
    """Whether its fidelity is lower by more than chance would have it."""
    ahead = lead(best, card)
    return ahead.value > standard_errors * ahead.error
