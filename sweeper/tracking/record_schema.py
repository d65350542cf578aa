"""A trial's record as it lies in its file: typed, within bounds, before anything is made of it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from evaluate.scorecard import Name, SavedCard, Text
from train.config.ranges import shown
from train.config.schema import MOST_STEPS
from train.files.untrusted import Scalar, Tree

RUNNING, COMPLETE, STOPPED, FAILED, INTERRUPTED = (
    "running",
    "complete",
    "stopped",
    "failed",
    "interrupted",
)
EPOCHS_TAG = "epochs"  # the tag that says how many epochs: training.max_steps may rule
# the tag of the seconds that drawing and reading the base's pictures took, once a process
PREPARING_TAG = "seconds.preparing"
PACK_TAG = "pack"  # the tag that says how many trials were trained at once

# groups of settings, where a record has them
SECTIONS = (
    "data",
    "base",
    "network",
    "optimizer",
    "scheduler",
    "training",
    "probes",
    "selection",
    "study",
)
MAX_TIMESTAMP = 4_102_444_800_000  # the first millisecond of 2100
MAX_SECONDS = 1e9  # seconds, some thirty years
Timestamp = Annotated[int, Meta(ge=0, le=MAX_TIMESTAMP)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Number = Annotated[int, Meta(ge=0, le=1_000_000)]


class SavedEpoch(msgspec.Struct):
    """A scored epoch; see `ScoredEpoch`."""

    scorecard: SavedCard
    train_loss: float
    lr: float
    seconds_training: float
    seconds_scoring: float
    time: Timestamp
    weights: Name
    lr_text_encoder: float | None = None
    pictures: Count = 0
    probes: Count = 0
    memory: float = 0.0

    def __post_init__(self) -> None:
        for seconds in (self.seconds_training, self.seconds_scoring):
            if not abs(seconds) <= MAX_SECONDS:
                raise ValueError(f"epoch {self.scorecard.epoch} took {seconds:g} seconds")
        if not math.isfinite(self.memory):
            raise ValueError(f"epoch {self.scorecard.epoch} took {self.memory:g} gigabytes")


class SavedRecord(msgspec.Struct):
    """A record; see `TrialRecord`. Tags are bounded as far as they are read."""

    study: Name
    number: Number
    settings: Tree
    overrides: Annotated[list[Text], Meta(max_length=10_000)]
    params: dict[Name, Scalar]
    tags: dict[Name, Text]
    epochs: list[SavedEpoch]
    state: Literal["running", "complete", "stopped", "failed", "interrupted"] = "running"
    reason: str = ""
    selected: int | None = None
    ended: Timestamp = 0

    def __post_init__(self) -> None:
        for section in SECTIONS:
            if not isinstance(self.settings.get(section) or {}, dict):
                raise ValueError(f"its settings of {section} are {shown(self.settings[section])}")
        for tag, max_value in ((EPOCHS_TAG, MOST_STEPS), (PACK_TAG, 1_000_000)):
            if not 0 <= parse_int(self.tags.get(tag, "0")) <= max_value:
                raise ValueError(f"its {tag} are {self.tags[tag][:40]!r}")
        if not 0 <= parse_seconds(self.tags.get(PREPARING_TAG, "0")) <= MAX_SECONDS:
            raise ValueError(f"its {PREPARING_TAG} are {self.tags[PREPARING_TAG][:40]!r}")
        if self.selected is not None and self.selected not in [
            e.scorecard.epoch for e in self.epochs
        ]:
            raise ValueError(f"epoch {self.selected} was selected, which it does not have")
        losses = {len(e.scorecard.by_probe.get("validation_loss", ())) for e in self.epochs}
        if len(losses - {0, 1}) > 1:
            raise ValueError("its epochs have validation losses of different pictures")


def parse_int(text: str) -> int:
    """A whole number that a tag holds; -1: it holds none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1


def parse_seconds(text: str) -> float:
    """A number that a tag holds; -1: it holds none."""
    try:
        return float(text)
    except ValueError:
        return -1.0
