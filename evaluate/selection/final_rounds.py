"""The course of a final: which finalists are scored in which round, until the best is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from evaluate.config import FinalConfig, PolicyConfig
from evaluate.selection.objective import total_violation
from evaluate.selection.verdict import Finalist, Verdict, conclude, end_round

Score = Callable[[int, Finalist], None]


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
