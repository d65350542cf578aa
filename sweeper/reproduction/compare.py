"""How near a run comes to the one that it repeats: bytes and scores, and a verdict on both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO

from evaluate.console.tables import PlainConsole, PlainTable
from sweeper.reproduction.config import DEFAULT
from sweeper.tracking.trial_record import ScoredEpoch

IDENTICAL, CLOSE, DIFFERENT = "identical", "within tolerance", "different"


@dataclass(frozen=True)
class Compared:
    """An epoch then and now.

    Attributes:
        gaps: score -> how far it is from then's, in its own units.
        missing: scores of then that are not made now.
    """

    epoch: int
    same_weights: bool
    gaps: dict[str, float]
    missing: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The epoch in a line."""
        weights = "the same bytes" if self.same_weights else "other bytes"
        worst = max(self.gaps, key=lambda name: self.gaps[name], default="")
        if not worst or not self.gaps[worst]:
            return f"weights {weights}, scores the same"
        return f"weights {weights}, {worst} differs by {self.gaps[worst]:.2g}"


def compare(then: ScoredEpoch, now: ScoredEpoch) -> Compared:
    """The bytes of the weights, and score by score."""
    old, new = then.scorecard.scores, now.scorecard.scores
    return Compared(
        epoch=then.scorecard.epoch,
        same_weights=then.weights == now.weights,
        gaps={name: abs(old[name].value - new[name].value) for name in old if name in new},
        missing=[name for name in old if name not in new],
    )


def pairs(
    then: Iterable[ScoredEpoch], now: Iterable[ScoredEpoch]
) -> list[tuple[ScoredEpoch, ScoredEpoch | None]]:
    """Then's epochs, each with the same one of now; None where there is none."""
    again = {epoch.scorecard.epoch: epoch for epoch in now}
    return [(epoch, again.get(epoch.scorecard.epoch)) for epoch in then]


def tolerance_of(score: str, tolerances: Mapping[str, float]) -> float:
    """The largest difference of a score that counts as the same, in its own units."""
    return tolerances.get(score, tolerances[DEFAULT])


def judge(compared: Iterable[Compared | None], tolerances: Mapping[str, float]) -> str:
    """IDENTICAL, CLOSE or DIFFERENT: that of the worst epoch; None is an epoch that is missing."""
    verdicts = [_judge(epoch, tolerances) for epoch in compared]
    return max(verdicts, key=(IDENTICAL, CLOSE, DIFFERENT).index, default=DIFFERENT)


def _judge(compared: Compared | None, tolerances: Mapping[str, float]) -> str:
    if compared is None or compared.missing:
        return DIFFERENT
    gaps = compared.gaps
    if compared.same_weights and not any(gaps.values()):
        return IDENTICAL
    near = all(gap <= tolerance_of(name, tolerances) for name, gap in gaps.items())
    return CLOSE if near else DIFFERENT


def table(
    then: ScoredEpoch,
    now: ScoredEpoch,
    compared: list[Compared],
    tolerances: Mapping[str, float],
) -> str:
    """Score by score, as text.

    Args:
        then, now: of the epoch that was kept.
        compared: all epochs, for the largest difference.
    """
    shown = PlainTable(f"{then.scorecard.label}, then and now")
    shown.heading("score")
    for heading in ("then", "now", "difference", "largest of all epochs", "tolerance"):
        shown.heading(heading, right=True)
    shown.heading("within?")
    new = now.scorecard.scores
    for name, estimate in then.scorecard.scores.items():
        if name not in new:
            shown.row(name, f"{estimate.value:.4f}", "not made now", "", "", "", "no")
            continue
        allowed = tolerance_of(name, tolerances)
        worst = max(compared, key=lambda one: one.gaps.get(name, 0.0))
        largest = worst.gaps.get(name, 0.0)
        at = f" (epoch {worst.epoch})" if largest and len(compared) > 1 else ""
        gap = new[name].value - estimate.value
        shown.row(
            name,
            f"{estimate.value:.4f}",
            f"{new[name].value:.4f}",
            f"{gap:+.2g}" if gap else "0",
            f"{largest:.2g}{at}",
            f"{allowed:g}",
            "same" if not largest else "yes" if largest <= allowed else "no",
        )
    text = StringIO()
    PlainConsole(text, width=120).print(shown)
    return text.getvalue().rstrip()
