"""What is known of one trial, kept in its folder: the local truth that MLflow mirrors."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL.Image import Image

from evaluate.scorecard import Scorecard
from evaluate.sheet import save_sheet
from train.config import ConfigError, cause, suggestion
from train.run_files import state_file
from train.weights_file import weights_hash, write_atomically

if TYPE_CHECKING:
    from train.member import Checkpoint

log = logging.getLogger(__name__)

FILE = "trial.json"
AT_WORK = "at-work"  # an empty file: a process is at the trial, or died with it
HOLDER = "holder"  # there while a process holds the trial
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
STATES = (RUNNING, COMPLETE, STOPPED, FAILED, INTERRUPTED)
# what a record must have, and of which kind
KINDS = {
    "study": str, "number": int, "settings": dict, "overrides": list, "params": dict, "tags": dict,
    "state": str, "reason": str, "ended": int,
}  # fmt: skip


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
        ended: when it was finished, in milliseconds since 1970; 0: not yet, or not known.
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
    ended: int = 0

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
        if not self.finished:
            self.ended = 0 if state == INTERRUPTED else int(time.time() * 1000)
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


class RecordError(ValueError):
    """A record cannot be read as one; the message says why."""


def load_record(folder: Path) -> Record:
    """Reads a trial's record; checkpoints are looked for beside it, wherever it was moved.

    Raises:
        RecordError: naming the file.
    """
    file = folder / FILE
    try:
        return read_record(json.loads(file.read_bytes()), folder)
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise RecordError(f"{file} is no record of a trial: {cause(error)}") from error


def read_record(saved: Any, folder: Path) -> Record:
    """The record in its JSON, of a trial whose files are (or would be) in `folder`. What another
    version has written beside what is known here is left out.

    Raises:
        RecordError: it is damaged.
    """
    about = (
        {"ended": 0}
        | _known(Record, saved)
        | {"folder": folder, "epochs": read_epochs(saved, folder)}
    )
    for name, kind in KINDS.items():
        if name not in about:
            raise RecordError(f"it has no {name}")
        if not isinstance(about[name], kind):
            raise RecordError(f"its {name} is {str(about[name])[:40]!r}")
    record = Record(**about)
    if record.state not in STATES:
        raise RecordError(f"its state is {record.state!r}")
    if record.selected is not None and not record.has(record.selected):
        raise RecordError(f"epoch {record.selected} was selected, which it does not have")
    if not str(record.tags.get(LENGTH, 0)).isdecimal():
        raise RecordError(f"it is {record.tags[LENGTH]} epochs long")
    return record


def read_epochs(saved: Any, folder: Path) -> list[ScoredEpoch]:
    """The scored epochs in a record's JSON, with the checkpoints in `folder`.

    Raises:
        RecordError: they are damaged.
    """
    try:
        return [_read_epoch(epoch, folder) for epoch in saved["epochs"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"its scored epochs are damaged: {cause(error)}") from error


def _read_epoch(saved: Any, folder: Path) -> ScoredEpoch:
    card = Scorecard.from_dict(saved["scorecard"])
    card.checkpoint = folder / card.checkpoint.name
    # a score that is no number is one that could not be told
    card.scores = {name: e for name, e in card.scores.items() if all(map(math.isfinite, e))}
    epoch = ScoredEpoch(**_known(ScoredEpoch, saved) | {"scorecard": card})
    if not math.isfinite(epoch.seconds):
        raise ValueError(f"epoch {card.epoch} took {epoch.seconds} seconds")
    return epoch


def _known(kind: type[Any], saved: Any) -> dict[str, Any]:
    """Of what is saved, that which a dataclass knows."""
    if not isinstance(saved, dict):
        raise RecordError("it is no JSON object")
    return {one.name: saved[one.name] for one in fields(kind) if one.name in saved}


def load_records(study: Path) -> list[Record]:
    """The records of all of a study's trials, in order; one that cannot be read is named, once."""
    found = sorted((study / "trials").glob(f"*/{FILE}"))
    files = [file for file in found if file.parent.name.isdecimal()]  # and no copy of a folder
    records = [_load_record(file.parent, file.stat().st_mtime_ns) for file in files]
    return [record for record in records if record is not None]


@lru_cache(maxsize=10_000)
def _load_record(folder: Path, changed: int) -> Record | None:
    """A study is looked through after every epoch, and most of its trials have ended long ago."""
    try:
        return load_record(folder)
    except RecordError as error:
        log.warning(f"{error}; the trial is left out")
        return None


def take_up(folder: Path, params: dict[str, Any]) -> Record | None:
    """The record of a trial to go on with; None: it begins anew, there being none, or one that is
    damaged or another trial's, which is set aside.

    Args:
        params: of the trial.
    """
    file = folder / FILE
    if not file.exists():
        state_file(folder).unlink(missing_ok=True)  # the epochs before it would have no scores
        return None
    try:
        record = load_record(folder)
        if not params or record.params == params:
            return record
        words = f"{file} is of a trial with other settings"
    except RecordError as error:
        words = str(error)
    aside = file.with_name(f"{FILE}.{time.time_ns()}")
    file.rename(aside)
    state_file(folder).unlink(missing_ok=True)  # the epochs before it would have no scores
    log.warning(f"{words}; it is now {aside.name}, and the trial begins anew")
    return None


def no_study(study: Path) -> ConfigError:
    """The error that there is no such study, with the name of the nearest."""
    others = sorted(folder.name for folder in study.parent.glob("*") if folder.is_dir())
    near = suggestion(study.name, others) or (f"; there are {', '.join(others)}" if others else "")
    return ConfigError(f"study: there is no study {study.name}{near}")


def trial_folder(study: Path, number: int) -> Path:
    """Where a trial's files go."""
    return study / "trials" / f"{number:04d}"
