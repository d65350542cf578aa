"""The file format of a trial's record, with types and bounds that are checked when it is read."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from evaluate.scorecard import Name, SavedCard, Text
from train.config.ranges import format_value
from train.config.schema import MAX_STEPS
from train.files.untrusted import Scalar, Tree

RUNNING, COMPLETE, STOPPED, FAILED, INTERRUPTED = (
    "running",
    "complete",
    "stopped",
    "failed",
    "interrupted",
)
EPOCHS_TAG = "epochs"  # tag: number of epochs, which training.max_steps may determine
# tag: seconds for generating and scoring the base model's images, once per process
PREPARING_TAG = "seconds.preparing"
PACK_TAG = "pack"  # tag: number of trials that were trained at once

# groups of settings that must be mappings
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
MAX_TIMESTAMP = 4_102_444_800_000  # milliseconds since 1970: the start of 2100
MAX_SECONDS = 1e9  # about thirty years
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
    """A record; see `TrialRecord`. Of the tags, those that are read are checked."""

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
                raise ValueError(
                    f"its settings of {section} are {format_value(self.settings[section])}"
                )
        for tag, max_value in ((EPOCHS_TAG, MAX_STEPS), (PACK_TAG, 1_000_000)):
            if not 0 <= parse_int(self.tags.get(tag, "0")) <= max_value:
                raise ValueError(f"its {tag} are {self.tags[tag][:40]!r}")
        if not 0 <= parse_seconds(self.tags.get(PREPARING_TAG, "0")) <= MAX_SECONDS:
            raise ValueError(f"its {PREPARING_TAG} are {self.tags[PREPARING_TAG][:40]!r}")
        if self.selected is not None and self.selected not in [
            e.scorecard.epoch for e in self.epochs
        ]:
            raise ValueError(f"epoch {self.selected} was selected, but it has no such epoch")
        losses = {len(e.scorecard.by_probe.get("validation_loss", ())) for e in self.epochs}
        if len(losses - {0, 1}) > 1:
            raise ValueError("its epochs have validation losses of different images")


def parse_int(text: str) -> int:
    """The integer in a tag; -1 if it is not one."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1


def parse_seconds(text: str) -> float:
    """The number in a tag; -1 if it is not one."""
    try:
        return float(text)
    except ValueError:
        return -1.0
