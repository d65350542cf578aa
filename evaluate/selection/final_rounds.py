"""The course of a final: who takes part, and who is scored in which round, until it is settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from evaluate.config import FinalConfig, PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.contenders import contender_groups, is_allowed
from evaluate.selection.objective import total_violation
from evaluate.selection.verdict import Finalist, Verdict, conclude, end_round, order_of

Score = Callable[[int, Finalist], None]


def finalist_of(card: Scorecard) -> Finalist:
    """The finalist of a file that belongs to no study."""
    return Finalist(card, order_of(card))


def line_up(
    cards: Sequence[Scorecard],
    policy: PolicyConfig,
    size: int,
    make: Callable[[Scorecard], Finalist] = finalist_of,
) -> list[Finalist]:
    """The finalists, in order of their groups: see `contender_groups`.

    Args:
        cards: of the first look; strengths and averages that the policy does not allow are left
            out.
        size: of a group.
        make: the finalist of a scorecard, without its group.
    """
    allowed = [card for card in cards if is_allowed(card, policy)]
    return [
        replace(make(card), group=number)
        for number, group in enumerate(contender_groups(allowed, policy, size))
        for card in group
    ]


def rows_of(look: int, config: FinalConfig) -> slice:
    """The fresh probes of a round.

    Args:
        look: number of the round, from 1.
    """
    start, end = ((look - i) * config.probes // config.rounds for i in (1, 0))
    return slice(start, end)


def play(
    finalists: Sequence[Finalist], score: Score, config: FinalConfig, policy: PolicyConfig
) -> Verdict | None:
    """Scores the finalists round by round, one group after the other.

    A group's turn comes only if no finalist of the groups before is within all limits.

    Args:
        finalists: in order of their groups, without scorecards on fresh probes.
        score: is called with the number of the round (from 1) and a finalist that is still in. It
            adds a scorecard on all fresh probes up to this round, or says why it cannot in `out`.

    Returns:
        The verdict; None if no finalist could be scored.
    """
    played: list[Finalist] = []
    verdict = None
    for _, members in groupby(finalists, key=lambda finalist: finalist.group):
        group = list(members)
        for look in range(1, config.rounds + 1):
            for finalist in group:
                if not finalist.out:
                    score(look, finalist)
            if end_round(group, look, config, policy):
                break
        played += group
        verdict = conclude(played, config, policy)
        if verdict is not None and total_violation(verdict.winner.final, policy) <= 0:
            break
    return verdict
