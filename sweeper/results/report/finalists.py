"""The table of the final: its finalists, the best first."""

from __future__ import annotations

from dataclasses import dataclass

from evaluate.selection.explain import format_percent
from evaluate.selection.objective import MEMORY, comparison_value
from evaluate.selection.verdict import Finalist, Verdict
from sweeper.final.course import ending


@dataclass(frozen=True)
class FinalistRow:
    """A finalist, formatted for display.

    Attributes:
        fidelity, memory: on its fresh probes; empty if they could not be scored.
        probability: that it is the best or equal to it; empty unless it proved to keep the limits.
        ending: why it was dropped, or that it is kept.
    """

    label: str
    probes: int
    fidelity: str
    memory: str
    probability: str
    ending: str
    kept: bool


def finalist_rows(verdict: Verdict | None) -> list[FinalistRow]:
    """A row for each finalist: the winner, then those that stayed longest."""
    if verdict is None:
        return []
    others = [f for f in verdict.finalists if f is not verdict.winner]
    others.sort(key=_place, reverse=True)
    return [_row(f, verdict) for f in (verdict.winner, *others)]


def _place(finalist: Finalist) -> tuple[int, bool, float]:
    worth = comparison_value(finalist.final) if finalist.cards else 0.0
    return len(finalist.cards), not finalist.out, worth


def _row(finalist: Finalist, verdict: Verdict) -> FinalistRow:
    kept, how = finalist is verdict.winner, ending(finalist, verdict)
    if not finalist.cards:
        return FinalistRow(finalist.label, 0, "", "", "", how, kept)
    card = finalist.final
    memory = format_percent(card.scores[MEMORY].value) if MEMORY in card.scores else ""
    return FinalistRow(
        label=finalist.label,
        probes=len(card.by_probe["subject_fidelity"]),
        fidelity=f"{comparison_value(card):.3f}",
        memory=memory,
        probability=format_percent(finalist.probability) if finalist in verdict.eligible else "",
        ending=how,
        kept=kept,
    )
