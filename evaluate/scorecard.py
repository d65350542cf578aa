"""The scores of one checkpoint, each with a confidence interval, and its probe images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from evaluate.config import LOSSES, MAX_STRENGTH
from train.config.schema import MAX_STEPS
from train.files.untrusted import convert

FIDELITIES = ("prompt_fidelity", "subject_fidelity")
Name = Annotated[str, Meta(max_length=500)]
Text = Annotated[str, Meta(max_length=100_000)]
MAX_SCORE = 1e30  # of a score; a larger one is treated like NaN
LOSSES_FROM = -100.0  # a loss is not negative; exp(-loss) is finite down to here


class Estimate(NamedTuple):
    """A score and its confidence interval."""

    value: float
    low: float
    high: float


class SavedCard(msgspec.Struct):
    """A scorecard in a file, of this version or an older one; see `Scorecard`."""

    class Bounds(msgspec.Struct):
        """An `Estimate`."""

        value: float
        low: float
        high: float

    checkpoint: Text
    epoch: Annotated[int, Meta(ge=0, le=MAX_STEPS)]
    scores: dict[Name, Bounds]
    by_probe: dict[Name, Annotated[list[float], Meta(max_length=10_000)]]
    notes: Annotated[list[Text], Meta(max_length=1000)]
    confidence: Annotated[float, Meta(ge=0, le=1)]
    unit: Literal["epoch", "step"]
    copies: dict[Name, int] = {}
    failure: Text | None = None  # older versions did not record it; see NOT_SCORED
    strength: Annotated[float, Meta(gt=0, le=MAX_STRENGTH)] = 1.0
    averaged: Annotated[int, Meta(ge=1, le=MAX_STEPS)] = 1

    def __post_init__(self) -> None:
        if not all(probe.isascii() and probe.isdecimal() for probe in self.copies):
            raise ValueError("its copies are not of numbered probes")
        observed = [self.by_probe[name] for name in FIDELITIES if name in self.by_probe]
        if len({len(values) for values in observed}) > 1:
            raise ValueError(f"its {' and '.join(FIDELITIES)} are of different probes")


# older records have no failure; in these only checkpoints with NaN images lack prompt_fidelity
NOT_SCORED = "its images could not be scored"


@dataclass
class Scorecard:
    """All scores of one checkpoint.

    Attributes:
        checkpoint: the LoRA file.
        epoch: after which it was saved; a step if `unit` is `step`.
        scores: name -> estimate; undefined scores are absent (validation_loss without held-out
            images).
        by_probe: name -> each probe's contribution, for scores that are means over probes.
        notes: remarks for the reader, for example that poses were compared by layout.
        confidence: of the intervals, 0 to 1.
        copies: index of a probe -> index of the training image that its image copies.
        unit: `epoch`, or `step` for files of trainers that count in steps.
        failure: why the checkpoint cannot be used, for example images that are not finite; empty
            if it can. A checkpoint that failed has no scores and is never feasible.
        images: the probe images (N, H, W, 3), 0 to 255; None after reading from JSON.
        strength: that is built into the file, which was made of a saved checkpoint (see
            `evaluate.variants.scoring`); 1 for a checkpoint as it was saved.
        averaged: number of successive checkpoints, this one the last, whose average the file is.
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
    strength: float = 1.0
    averaged: int = 1

    @property
    def label(self) -> str:
        """`epoch 5`, `epoch 5 at strength 0.8`, `the average of 2 checkpoints up to epoch 5`."""
        label = f"{self.unit} {self.epoch}"
        if self.averaged > 1:
            label = f"the average of {self.averaged} checkpoints up to {label}"
        return label if self.strength == 1 else f"{label} at strength {self.strength:g}"

    @property
    def is_variant(self) -> bool:
        """Whether the file was made of saved checkpoints, without training."""
        return self.averaged > 1 or self.strength != 1

    def to_dict(self) -> dict[str, Any]:
        """Everything except the images, ready for JSON."""
        return {
            "checkpoint": str(self.checkpoint),
            "epoch": self.epoch,
            "scores": {name: estimate._asdict() for name, estimate in self.scores.items()},
            "by_probe": self.by_probe,
            "notes": list(self.notes),
            "confidence": self.confidence,
            "copies": {str(probe): image for probe, image in self.copies.items()},
            "unit": self.unit,
            "failure": self.failure,
            "strength": self.strength,
            "averaged": self.averaged,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Scorecard:
        """The scorecard that `to_dict` of this or an older version wrote, without images.

        Raises:
            UntrustedFileError: it is not a scorecard; the message says where.
        """
        return cls.of(convert(saved, SavedCard, "scorecard"))

    @classmethod
    def of(cls, saved: SavedCard) -> Scorecard:
        """The scorecard in a file. A score that is not finite is treated as undefined."""
        estimates = {n: Estimate(s.value, s.low, s.high) for n, s in saved.scores.items()}
        scores = {n: estimate for n, estimate in estimates.items() if _is_valid(n, estimate)}
        failure = saved.failure
        if failure is None:
            failure = "" if "prompt_fidelity" in scores else NOT_SCORED
        if failure:
            scores = {}
        return cls(
            checkpoint=Path(saved.checkpoint),
            epoch=saved.epoch,
            scores=scores,
            by_probe={n: v for n, v in saved.by_probe.items() if n in scores and _in_range(v)},
            notes=saved.notes,
            confidence=saved.confidence,
            copies={int(probe): image for probe, image in saved.copies.items()},
            unit=saved.unit,
            failure=failure,
            strength=saved.strength,
            averaged=saved.averaged,
        )


def _is_valid(name: str, estimate: Estimate) -> bool:
    return _in_range(estimate) and not (name in LOSSES and estimate.value < LOSSES_FROM)


def _in_range(values: Iterable[float]) -> bool:
    return all(-MAX_SCORE <= value <= MAX_SCORE for value in values)


def usable(cards: Iterable[Scorecard]) -> list[Scorecard]:
    """The scorecards of the checkpoints that did not fail, in order."""
    return [card for card in cards if not card.failure]
