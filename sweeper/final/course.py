"""The course of a final as a table: every finalist's fidelity and chance after each round."""

from __future__ import annotations

from evaluate.console.tables import PlainTable
from evaluate.selection.explain import format_percent
from evaluate.selection.objective import comparison_value
from evaluate.selection.verdict import Finalist, Verdict


def course(verdict: Verdict) -> PlainTable:
    """A row for each finalist, a column for each round, and how it ended.

    A cell has the fidelity on all fresh probes so far, and the probability that it is the best or
    equal to it within the tolerance.
    """
    longest = max(verdict.finalists, key=lambda f: len(f.cards))
    table = PlainTable("the final, round by round")
    table.heading("")
    table.heading("finalist")
    for number, card in enumerate(longest.cards, start=1):
        probes = len(card.by_probe["subject_fidelity"])
        table.heading(f"round {number}\n{probes} probes", right=True)
    table.heading("how it ended")
    for finalist in verdict.finalists:
        cells = [
            f"{comparison_value(card):.3f}  {format_percent(probability):>4}"
            for card, probability in zip(finalist.cards, finalist.probabilities, strict=True)
        ]
        cells += [""] * (len(longest.cards) - len(cells))
        winner = finalist is verdict.winner
        table.row("*" if winner else "", finalist.label, *cells, ending(finalist, verdict))
    return table


def ending(finalist: Finalist, verdict: Verdict) -> str:
    """Why a finalist was dropped, or that it is kept."""
    if finalist is verdict.winner:
        return "kept"
    if finalist in verdict.ties:
        return "tied with the kept one"
    if finalist.out:
        return finalist.out
    lost = finalist in verdict.eligible
    return "less likely to be the best" if lost else "not certainly within the limits"
