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
    is_noise,
    paired_difference,
    total_violation,
)
from evaluate.selection.sequential import Values
from evaluate.selection.weighted_mean import contributions

MAX_BEHIND = 2.0  # standard errors of the paired difference
MAX_GROUPS = 3  # of contenders


def contender_groups(
    cards: Sequence[Scorecard], policy: PolicyConfig, size: int
) -> list[list[Scorecard]]:
    """The checkpoints that may be the best within the limits, in groups of at most `size`.

    A checkpoint may be the best if no limit is certainly exceeded. The first group has those that
    are not behind the best of these by more than MAX_BEHIND standard errors, and of too many the
    ones within all limits and nearest to it. The others, in order of their distance, form further
    groups, up to MAX_GROUPS in all: their turn comes if the first group proves to be over a limit.
    If all checkpoints certainly exceed one, or if the fidelity is undefined, there is no group.
    """
    possible = [
        card for card in usable(cards) if fidelity(card) is not None and may_hold(card, policy)
    ]
    if not possible:
        return []
    distances = _distances(possible)

    def place(card: Scorecard) -> tuple[bool, float, int]:
        return total_violation(card, policy) > 0, distances[id(card)], card.epoch

    ordered = sorted(possible, key=place)
    first = [card for card in ordered if distances[id(card)] <= MAX_BEHIND][:size]
    chosen = {id(card) for card in first}
    rest = [card for card in ordered if id(card) not in chosen]
    groups = [first, *(rest[i : i + size] for i in range(0, len(rest), size))]
    return groups[:MAX_GROUPS]


def is_allowed(card: Scorecard, policy: PolicyConfig) -> bool:
    """Whether a policy allows a checkpoint's strength and average."""
    return card.strength in policy.strengths and card.averaged in policy.averages


def variant_sources(cards: Sequence[Scorecard], size: int) -> list[Scorecard]:
    """The checkpoints of which other strengths and averages are tried, at most `size`.

    They have the most fidelity, as far as that is significant, within the limits or not: at a lower
    strength they may be within.
    """
    possible = [c for c in usable(cards) if fidelity(c) is not None and not is_noise(c)]
    distances = _distances(possible)
    ordered = sorted(possible, key=lambda card: (distances[id(card)], card.epoch))
    return [card for card in ordered if distances[id(card)] <= MAX_BEHIND][:size]


def _distances(cards: Sequence[Scorecard]) -> dict[int, float]:
    """By the id of each checkpoint, its distance from the best of them."""
    best = max(cards, key=comparison_value, default=None)
    return {id(card): _distance(best, card) for card in cards} if best else {}


def _distance(best: Scorecard, card: Scorecard) -> float:
    """By how many standard errors a checkpoint is behind the best one."""
    lead = paired_difference(best, card)
    if lead.error > 0:
        return lead.value / lead.error
    return float("inf") if lead.value > 0 else 0.0


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
