"""Compares a reproduction with the original run: weights, scores and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO

from evaluate.console.tables import PlainConsole, PlainTable
from sweeper.reproduction.config import DEFAULT_TOLERANCE
from sweeper.tracking.trial_record import ScoredEpoch

IDENTICAL, CLOSE, DIFFERENT = "identical", "within tolerance", "different"


@dataclass(frozen=True)
class EpochComparison:
    """The comparison of an epoch with the original one.

    Attributes:
        differences: score -> absolute difference, in its own units.
        missing: original scores that the reproduction does not have.
    """

    epoch: int
    same_weights: bool
    differences: dict[str, float]
    missing: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The comparison in one line."""
        weights = "identical weights" if self.same_weights else "different weights"
        worst = max(self.differences, key=lambda name: self.differences[name], default="")
        if not worst or not self.differences[worst]:
            return f"{weights}, identical scores"
        return f"{weights}, {worst} differs by {self.differences[worst]:.2g}"


def compare(original: ScoredEpoch, reproduced: ScoredEpoch) -> EpochComparison:
    """Compares the weights byte for byte, and each score."""
    old, new = original.scorecard.scores, reproduced.scorecard.scores
    return EpochComparison(
        epoch=original.scorecard.epoch,
        same_weights=original.weights == reproduced.weights,
        differences={name: abs(old[name].value - new[name].value) for name in old if name in new},
        missing=[name for name in old if name not in new],
    )


def pair_epochs(
    original: Iterable[ScoredEpoch], reproduced: Iterable[ScoredEpoch]
) -> list[tuple[ScoredEpoch, ScoredEpoch | None]]:
    """The original epochs, each with its reproduction, or None if it is missing."""
    by_number = {epoch.scorecard.epoch: epoch for epoch in reproduced}
    return [(epoch, by_number.get(epoch.scorecard.epoch)) for epoch in original]


def tolerance_of(score: str, tolerances: Mapping[str, float]) -> float:
    """The largest difference of a score that is within tolerance, in its own units."""
    return tolerances.get(score, tolerances[DEFAULT_TOLERANCE])


def verdict_of(compared: Iterable[EpochComparison | None], tolerances: Mapping[str, float]) -> str:
    """IDENTICAL, CLOSE or DIFFERENT, whichever the worst epoch is; None is a missing epoch."""
    verdicts = [_epoch_verdict(epoch, tolerances) for epoch in compared]
    return max(verdicts, key=(IDENTICAL, CLOSE, DIFFERENT).index, default=DIFFERENT)


def _epoch_verdict(compared: EpochComparison | None, tolerances: Mapping[str, float]) -> str:
    if compared is None or compared.missing:
        return DIFFERENT
    differences = compared.differences
    if compared.same_weights and not any(differences.values()):
        return IDENTICAL
    is_close = all(
        difference <= tolerance_of(name, tolerances) for name, difference in differences.items()
    )
    return CLOSE if is_close else DIFFERENT


def comparison_table(
    original: ScoredEpoch,
    reproduced: ScoredEpoch,
    compared: list[EpochComparison],
    tolerances: Mapping[str, float],
) -> str:
    """A table of all scores, as text.

    Args:
        original, reproduced: the selected epoch.
        compared: all epochs, for the largest difference.
    """
    table = PlainTable(f"{original.scorecard.label}, original and reproduced")
    table.heading("score")
    for heading in ("original", "reproduced", "difference", "largest of all epochs", "tolerance"):
        table.heading(heading, right=True)
    table.heading("within?")
    new_scores = reproduced.scorecard.scores
    for name, estimate in original.scorecard.scores.items():
        if name not in new_scores:
            table.row(name, f"{estimate.value:.4f}", "missing", "", "", "", "no")
            continue
        allowed = tolerance_of(name, tolerances)
        worst = max(compared, key=lambda comparison: comparison.differences.get(name, 0.0))
        largest = worst.differences.get(name, 0.0)
        epoch_suffix = f" (epoch {worst.epoch})" if largest and len(compared) > 1 else ""
        difference = new_scores[name].value - estimate.value
        table.row(
            name,
            f"{estimate.value:.4f}",
            f"{new_scores[name].value:.4f}",
            f"{difference:+.2g}" if difference else "0",
            f"{largest:.2g}{epoch_suffix}",
            f"{allowed:g}",
            "same" if not largest else "yes" if largest <= allowed else "no",
        )
    text = StringIO()
    PlainConsole(text, width=120).print(table)
    return text.getvalue().rstrip()
