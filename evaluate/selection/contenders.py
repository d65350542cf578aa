"""Which checkpoints of a first look may be the best: pure functions of scorecards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.objective import (
    FIDELITIES,
    comparison_value,
    fidelity,
    paired_difference,
    total_violation,
)
from evaluate.selection.sequential import Values, contributions

MAX_BEHIND = 2.0  # standard errors of the paired difference


def contenders(cards: Sequence[Scorecard], policy: PolicyConfig, count: int) -> list[Scorecard]:
    """The checkpoints that may be the best within the limits, the most probable first.

    A checkpoint may be the best if no limit is certainly exceeded and if it is not behind the best
    of those by more than MAX_BEHIND standard errors. If all exceed one for certain, or if the
    fidelity is undefined, there is no contender.

    Args:
        count: of contenders, at most.
    """
    possible = [
        card for card in usable(cards) if fidelity(card) is not None and may_hold(card, policy)
    ]
    if not possible:
        return []
    best = max(possible, key=comparison_value)

    def distance(card: Scorecard) -> float:
        lead = paired_difference(best, card)
        if lead.error > 0:
            return lead.value / lead.error
        return float("inf") if lead.value > 0 else 0.0

    near = [card for card in possible if distance(card) <= MAX_BEHIND]
    certain = {id(card) for card in near if total_violation(card, policy) <= 0}
    near.sort(key=lambda card: (id(card) not in certain, distance(card), card.epoch))
    return near[:count]


def may_hold(card: Scorecard, policy: PolicyConfig) -> bool:
    """Whether a checkpoint may be within all limits: no interval is entirely beyond one."""
    scores = card.scores
    below = all(scores[n].low <= limit for n, limit in policy.max.items() if n in scores)
    return below and all(scores[n].high >= least for n, least in policy.min.items() if n in scores)


def worths(cards: Sequence[Scorecard]) -> Values:
    """(N, K) contribution of each probe to the fidelity of each checkpoint, of the same probes."""
    columns = []
    for card in cards:
        values = [card.by_probe[name] for name in FIDELITIES if name in card.by_probe]
        columns.append(contributions(values[0], values[-1]))
    return np.stack(columns, axis=1)
