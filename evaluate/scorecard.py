"""What is known of one checkpoint: its scores, each with an interval, and its pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Estimate(NamedTuple):
    """A score and its confidence interval."""

    value: float
    low: float
    high: float


# of records from before a scorecard said so itself: only NaN pictures had no prompt_fidelity
NOT_SCORED = "its pictures could not be scored"


@dataclass
class Scorecard:
    """All scores of one checkpoint.

    Attributes:
        checkpoint: the LoRA file.
        epoch: after which it was saved; the step where `unit` says so.
        scores: name -> estimate; those that could not be told are absent (validation_loss where
            no picture is held out).
        by_probe: name -> what each probe adds to a score, where the score is a mean over probes.
        notes: what a reader should know, for example that poses were compared by layout.
        confidence: of the intervals, 0 to 1.
        copies: the number of a probe -> that of the training picture that its image is a copy of.
        unit: epoch or step, for files of trainers that count in steps.
        failure: why the checkpoint cannot be used, for example because its pictures are not finite;
            empty: it can. A checkpoint that failed has no scores, and is never feasible.
        images: the probe images (N, H, W, 3), 0 to 255; None once read back from JSON.
    """

    checkpoint: Path
    epoch: int
    scores: dict[str, Estimate]
    by_probe: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    confidence: float = 0.9
    copies: dict[int, int] = field(default_factory=dict)
    unit: str = "epoch"
    failure: str = ""
    images: NDArray[np.uint8] | None = None

    @property
    def label(self) -> str:
        """`epoch 5`."""
        return f"{self.unit} {self.epoch}"

    def to_dict(self) -> dict[str, Any]:
        """All but the images, ready for JSON."""
        return {
            "checkpoint": str(self.checkpoint),
            "epoch": self.epoch,
            "scores": {name: estimate._asdict() for name, estimate in self.scores.items()},
            "by_probe": self.by_probe,
            "notes": list(self.notes),
            "confidence": self.confidence,
            "copies": self.copies,
            "unit": self.unit,
            "failure": self.failure,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Scorecard:
        """The scorecard that `to_dict` wrote, this version's or an older one's, without images."""
        estimates = {name: Estimate(**bounds) for name, bounds in saved["scores"].items()}
        scores = {name: e for name, e in estimates.items() if all(map(isfinite, e))}
        failure = str(saved.get("failure", "" if "prompt_fidelity" in scores else NOT_SCORED))
        if failure:
            scores = {}
        return cls(
            checkpoint=Path(saved["checkpoint"]),
            epoch=int(saved["epoch"]),
            scores=scores,
            by_probe={name: list(v) for name, v in saved["by_probe"].items() if name in scores},
            notes=list(saved["notes"]),
            confidence=float(saved["confidence"]),
            copies={int(probe): int(n) for probe, n in saved.get("copies", {}).items()},
            unit=str(saved["unit"]),
            failure=failure,
        )


def usable(cards: Iterable[Scorecard]) -> list[Scorecard]:
    """The scorecards of the checkpoints that did not fail, in the same order."""
    return [card for card in cards if not card.failure]
