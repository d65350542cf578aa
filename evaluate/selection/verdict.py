"""Which of the finalists is kept, and how sure that is: pure functions of scorecards.

`evaluate.final` scores the finalists round by round. What happens after each round is decided here,
so a saved final can be decided again under other limits, without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

from evaluate.config import LOSSES, FinalConfig, PolicyConfig
from evaluate.scorecard import Estimate, Scorecard
from evaluate.selection.contenders import may_hold, worths
from evaluate.selection.objective import comparison_value, paired_difference, total_violation
from evaluate.selection.sequential import behind, critical_value, probabilities_of_best

BEHIND = "behind"  # begins the reason of a finalist that was dropped, but not for a limit


@dataclass(eq=False)
class Finalist:
    """A checkpoint in the final.

    Attributes:
        first: the scorecard by which it became a contender.
        order: how late it is taken among equals, for example its epoch.
        cards: after each of its rounds, its scorecard on all fresh probes that it has had.
        out: why it was dropped; empty if it was not.
        failure: why its images could not be scored; empty if they could.
        probabilities: after each of its rounds, that it is the best of those that were not
            dropped, or equal to it within the tolerance; 0 in the round that it was dropped in.
        trial: of a study; None for other files.
        group: of contenders, from 0; see `contender_groups`.
    """

    first: Scorecard
    order: tuple[int, ...]
    cards: list[Scorecard] = field(default_factory=list)
    out: str = ""
    failure: str = ""
    probabilities: list[float] = field(default_factory=list)
    trial: int | None = None
    group: int = 0

    @property
    def label(self) -> str:
        """`trial 3, epoch 5`."""
        return self.first.label if self.trial is None else f"trial {self.trial}, {self.first.label}"

    @property
    def probability(self) -> float:
        """The last of its probabilities; 0 if it was dropped."""
        return self.probabilities[-1] if self.probabilities and not self.out else 0.0

    def of(self, first: Scorecard) -> Finalist:
        """The same finalist, whose checkpoint is that of another scorecard: it may have moved."""
        cards = [replace(card, checkpoint=first.checkpoint) for card in self.cards]
        return replace(self, first=first, cards=cards)

    @property
    def final(self) -> Scorecard:
        """Its last scorecard on fresh probes."""
        return self.cards[-1]


def order_of(card: Scorecard, rank: int = 0, trial: int = 0) -> tuple[int, ...]:
    """How late a checkpoint is taken among equals: by epoch, rank, trial, and as it was saved."""
    return card.epoch, rank, trial, card.averaged, round(abs(1 - card.strength) * 1000)


@dataclass(frozen=True)
class Verdict:
    """The result of a final.

    Attributes:
        finalists: in the order of the contenders.
        winner: the one to keep.
        eligible: those that had all rounds and proved to be within the limits, the winner among
            them; empty if none did.
        ties: of these the ones whose fidelity is within the tolerance of the highest, besides the
            winner.
        tolerance: see `FinalConfig`.
    """

    finalists: list[Finalist]
    winner: Finalist
    eligible: list[Finalist]
    ties: list[Finalist]
    tolerance: float

    @property
    def reported(self) -> Scorecard:
        """The winner's scores: on fresh probes, and its losses, which have no probes."""
        first, final = self.winner.first, self.winner.final
        scores = {name: first.scores[name] for name in LOSSES if name in first.scores}
        by_probe = {name: first.by_probe[name] for name in LOSSES if name in first.by_probe}
        return replace(final, scores=final.scores | scores, by_probe=final.by_probe | by_probe)

    @property
    def prompts(self) -> int:
        """The number of fresh prompts that the winner was scored on."""
        return len(worths([self.winner.final]))

    @property
    def runner_up(self) -> Finalist | None:
        """The best of the others: of those that stayed longest, the one with most fidelity.

        None if all others are over a limit.
        """
        others = [f for f in self.finalists if f is not self.winner and f.cards]
        candidates = [f for f in others if f in self.eligible or f.out.startswith(BEHIND)]
        return max(
            candidates,
            key=lambda f: (f in self.eligible, len(f.cards), comparison_value(f.final)),
            default=None,
        )

    @property
    def lead(self) -> float:
        """By how much the runner-up is behind, in fidelity on the probes that both had."""
        other = self.runner_up
        if other is None:
            return 0.0
        shared = min(len(other.cards), len(self.winner.cards)) - 1
        return paired_difference(self.winner.cards[shared], other.cards[shared]).value


def end_round(
    finalists: Sequence[Finalist], look: int, config: FinalConfig, policy: PolicyConfig
) -> bool:
    """Drops finalists after a round, and says whether the final is settled.

    Those are dropped that are certainly over a limit (unless all are), and those that are behind
    the best one within the limits. It is settled if the best is known and within all limits.

    Args:
        look: number of the round, from 1.
    """
    scored = [f for f in finalists if not f.out]
    for finalist in scored:
        finalist.probabilities.append(0.0)
    inside = _drop_behind(_drop_over_limit(scored, look, policy), look, config, policy)
    if not inside:
        return True
    _assign_probabilities(inside, config)
    certain = all(total_violation(f.final, policy) <= 0 for f in inside)
    return certain and max(f.probability for f in inside) >= config.confidence


def _drop_over_limit(inside: list[Finalist], look: int, policy: PolicyConfig) -> list[Finalist]:
    hopeful = [f for f in inside if may_hold(f.final, policy)]
    if not hopeful:
        return inside
    for finalist in inside:
        if finalist not in hopeful:
            finalist.out = f"over a limit after round {look}"
    return hopeful


def _drop_behind(
    inside: list[Finalist], look: int, config: FinalConfig, policy: PolicyConfig
) -> list[Finalist]:
    certain = [f for f in inside if total_violation(f.final, policy) <= 0]
    if not certain or len(inside) < 2:
        return inside
    leader = max(certain, key=lambda f: comparison_value(f.final))
    critical = critical_value(look, config.rounds, len(inside) - 1, config.error_rate)
    for finalist in inside:
        if finalist is not leader and behind(worths([leader.final, finalist.final]), critical)[1]:
            finalist.out = f"{BEHIND} after round {look}"
    return [f for f in inside if not f.out]


def conclude(
    finalists: list[Finalist], config: FinalConfig, policy: PolicyConfig
) -> Verdict | None:
    """The verdict after the last round; None if no finalist could be scored.

    The first in order of those is kept whose fidelity is at most the tolerance below the highest
    one within the limits. If none is within the limits, it is the one with the least violation.
    The probabilities are those of being the best of all that proved to be within the limits.
    """
    scored = [f for f in finalists if f.cards]
    inside = [f for f in scored if not f.out] or scored
    if not inside:
        return None
    feasible = [f for f in inside if total_violation(f.final, policy) <= 0]
    if not feasible:
        least = min(inside, key=lambda f: (total_violation(f.final, policy), f.order))
        return Verdict(finalists, least, [], [], config.tolerance)
    for finalist in inside:
        finalist.probabilities[-1] = 0.0
    _assign_probabilities(feasible, config)
    highest = max(comparison_value(f.final) for f in feasible)
    equal = [f for f in feasible if comparison_value(f.final) >= highest - config.tolerance]
    winner = min(equal, key=lambda f: f.order)
    ties = [f for f in equal if f is not winner]
    return Verdict(finalists, winner, feasible, ties, config.tolerance)


def _assign_probabilities(compared: list[Finalist], config: FinalConfig) -> None:
    """Replaces the last probability of each."""
    probabilities = probabilities_of_best(worths([f.final for f in compared]), config.tolerance)
    for finalist, probability in zip(compared, probabilities, strict=True):
        finalist.probabilities[-1] = float(probability)


def probability_within(estimate: Estimate, limit: float, confidence: float) -> float:
    """Probability that a score is at most `limit`, as its confidence interval suggests.

    The interval's half towards the limit is taken as that of a normal distribution.
    """
    normal = NormalDist()
    half = (
        estimate.high - estimate.value if limit >= estimate.value else estimate.value - estimate.low
    )
    error = half / normal.inv_cdf((1 + confidence) / 2)
    distance = limit - estimate.value
    return normal.cdf(distance / error) if error > 0 else float(distance >= 0)


def limit_probabilities(card: Scorecard, policy: PolicyConfig) -> dict[str, float]:
    """For each limit, the probability that a checkpoint is within it."""
    known = {name: card.scores[name] for name in (*policy.max, *policy.min) if name in card.scores}
    below = {
        name: probability_within(known[name], limit, card.confidence)
        for name, limit in policy.max.items() if name in known
    }  # fmt: skip
    above = {
        name: 1 - probability_within(known[name], least, card.confidence)
        for name, least in policy.min.items() if name in known
    }  # fmt: skip
    return below | above
