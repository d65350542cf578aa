"""What is known of one trial, kept in its folder: the local truth that MLflow mirrors."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Image

from evaluate.scorecard import Scorecard
from evaluate.sheet import save_sheet
from train.checkpoint import weights_hash, write_atomically
from train.config import ConfigError, suggestion
from train.trainer import Checkpoint

FILE = "trial.json"
WORKER = "worker"  # the tag that says which process of which machine is, or was, at it
# the tag of the seconds that drawing and reading the base's pictures took, once a process
PREPARING = "seconds.preparing"
LENGTH = "epochs"  # the tag that says how many epochs: training.max_steps may rule
RUNNING, COMPLETE, STOPPED, FAILED, INTERRUPTED = (
    "running",
    "complete",
    "stopped",
    "failed",
    "interrupted",
)


@dataclass
class ScoredEpoch:
    """One scored checkpoint.

    Attributes:
        lr, lr_text_encoder: after its last step; None: the text encoder has no LoRA.
        seconds_training, seconds_scoring: its share of the pack's time.
        time: when it was scored, in milliseconds since 1970.
        weights: sha256 of the LoRA's tensors.
        pictures: that it was shown since the scored epoch before.
        probes: images that were made of it.
        memory: gigabytes at the height so far, of the GPU or of the process.
    """

    scorecard: Scorecard
    train_loss: float
    lr: float
    seconds_training: float
    seconds_scoring: float
    time: int
    weights: str
    lr_text_encoder: float | None = None
    pictures: int = 0
    probes: int = 0
    memory: float = 0.0

    @property
    def seconds(self) -> float:
        """Of the device, for training and scoring."""
        return self.seconds_training + self.seconds_scoring


class Cost(NamedTuple):
    """What a scored epoch took: seconds, its share of the pack's; gigabytes at the height."""

    training: float
    scoring: float
    memory: float = 0.0


@dataclass
class Record:
    """One trial: its settings, its scored epochs, how it ended.

    Attributes:
        settings: the resolved config, as in conf/sweep.yaml.
        overrides: Hydra's, that made these settings.
        params: those of the settings that the study searches.
        tags: fingerprints, versions, hardware.
        state: running, complete, stopped, failed or interrupted.
        reason: why it was stopped or failed.
        selected: the epoch to keep.
    """

    folder: Path
    study: str
    number: int
    settings: dict[str, Any]
    overrides: list[str]
    params: dict[str, Any]
    tags: dict[str, str]
    state: str = RUNNING
    reason: str = ""
    selected: int | None = None
    epochs: list[ScoredEpoch] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"trial {self.number}{' again' if 'reproduction_of' in self.tags else ''}"

    @property
    def length(self) -> int:
        """Epochs that it has in the end, unless it is stopped; 0: not known."""
        epochs = self.settings.get("training", {}).get("epochs", 0)
        return int(self.tags.get(LENGTH, epochs))

    @property
    def scorecards(self) -> list[Scorecard]:
        return [epoch.scorecard for epoch in self.epochs]

    @property
    def finished(self) -> bool:
        return self.state in (COMPLETE, STOPPED, FAILED)

    def has(self, epoch: int) -> bool:
        """Whether this epoch is scored."""
        return any(card.epoch == epoch for card in self.scorecards)

    def add(
        self,
        scorecard: Scorecard,
        saved: Checkpoint,
        sheet: Image,
        cost: Cost,
    ) -> None:
        """Keeps a scored checkpoint and its contact sheet; on disk when this returns."""
        save_sheet(sheet, self.sheet(scorecard.epoch))
        probes = 0 if scorecard.images is None else len(scorecard.images)
        scorecard.images = None  # the sheet shows them, and a study's would not fit into memory
        self.epochs.append(
            ScoredEpoch(
                scorecard=scorecard,
                train_loss=saved.train_loss,
                lr=saved.lr,
                seconds_training=cost.training,
                seconds_scoring=cost.scoring,
                time=int(time.time() * 1000),
                weights=weights_hash(saved.path),
                lr_text_encoder=saved.lr_text_encoder,
                pictures=saved.pictures,
                probes=probes,
                memory=cost.memory,
            )
        )
        self.save()

    def sheet(self, epoch: int) -> Path:
        """Where an epoch's contact sheet lies."""
        return self.folder / "sheets" / f"{epoch:06d}.png"

    def end(self, state: str, reason: str = "", selected: int | None = None) -> None:
        """Notes how the trial ended."""
        self.state, self.reason, self.selected = state, reason, selected
        self.save()

    def save(self) -> None:
        """Writes the record in one piece."""
        about = {name: value for name, value in vars(self).items() if name != "folder"}
        about["epochs"] = [
            {**vars(epoch), "scorecard": epoch.scorecard.to_dict()} for epoch in self.epochs
        ]
        text = json.dumps(about)  # with an indent it takes ten times as long
        write_atomically(self.folder / FILE, text.encode())


def load_record(folder: Path) -> Record:
    """Reads a trial's record; checkpoints are looked for beside it, wherever it was moved."""
    return read_record(json.loads((folder / FILE).read_text(encoding="utf-8")), folder)


def read_record(saved: dict[str, Any], folder: Path) -> Record:
    """The record in its JSON, of a trial whose files are (or would be) in `folder`."""
    return Record(**{**saved, "folder": folder, "epochs": read_epochs(saved, folder)})


def read_epochs(saved: dict[str, Any], folder: Path) -> list[ScoredEpoch]:
    """The scored epochs in a record's JSON, with the checkpoints in `folder`."""
    epochs = []
    for epoch in saved["epochs"]:
        card = Scorecard.from_dict(epoch["scorecard"])
        card.checkpoint = folder / card.checkpoint.name
        epochs.append(ScoredEpoch(**{**epoch, "scorecard": card}))
    return epochs


def load_records(study: Path) -> list[Record]:
    """The records of all of a study's trials, in order."""
    files = sorted((study / "trials").glob(f"*/{FILE}"))
    return [_load_record(file.parent, file.stat().st_mtime_ns) for file in files]


@lru_cache(maxsize=10_000)
def _load_record(folder: Path, changed: int) -> Record:
    """A study is looked through after every epoch, and most of its trials have ended long ago."""
    return load_record(folder)


def no_study(study: Path) -> ConfigError:
    """The error that there is no such study, with the name of the nearest."""
    others = sorted(folder.name for folder in study.parent.glob("*") if folder.is_dir())
    near = suggestion(study.name, others) or (f"; there are {', '.join(others)}" if others else "")
    return ConfigError(f"study: there is no study {study.name}{near}")


def trial_folder(study: Path, number: int) -> Path:
    """Where a trial's files go."""
    return study / "trials" / f"{number:04d}"
