"""What is known of one trial, kept in its folder: the local truth that MLflow mirrors."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL.Image import Image

from evaluate.images.contact_sheet import save_sheet
from evaluate.images.probe_images import save_probe_images
from evaluate.scorecard import Scorecard
from sweeper.config import SweepConfig
from sweeper.tracking.record_schema import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    LENGTH,
    PACK,
    PREPARING,
    RUNNING,
    STOPPED,
    SavedEpoch,
    SavedRecord,
    seconds,
    whole,
)
from train.config.parsing import suggestion
from train.config.ranges import format_value
from train.config.schema import MAX_STEPS
from train.errors import ConfigError
from train.files.atomic_write import write_atomically
from train.files.untrusted import Scalar, UntrustedFileError, parse_json, read_bytes
from train.lora.checkpoint_file import weights_hash
from train.resume.run_files import state_file
from train.text.display import shortened

if TYPE_CHECKING:
    from train.loop.trial_spec import Checkpoint

log = logging.getLogger(__name__)

FILE = "trial.json"
AT_WORK = "at-work"  # an empty file: a process is at the trial, or died with it
HOLDER = "holder"  # there while a process holds the trial
WORKER = "worker"  # the tag that says which process of which machine is, or was, at it
LONGEST_NAME = 255  # bytes, of a file
# of a study: records; bytes of them, of 1,000 trials of 60 epochs each; bytes of memory
MOST_RECORDS, MOST_BYTES, MOST_MEMORY = 100_000, 300_000_000, 1_500_000_000
COMMA, BRACKET, COLON, WIDE = 40, 100, 90, 4  # bytes of memory for each; for each byte of text


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
class TrialRecord:
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
        if LENGTH in self.tags:
            return whole(self.tags[LENGTH])
        epochs = self.setting("training", "epochs")
        return epochs if type(epochs) is int and 0 <= epochs <= MAX_STEPS else 0

    def setting(self, group: str, name: str) -> Scalar:
        """One of its settings; None where it has none of this name, or one of several values."""
        settings = self.settings.get(group)
        found = settings.get(name) if isinstance(settings, dict) else None
        return found if isinstance(found, bool | int | float | str) else None

    @property
    def pack(self) -> int:
        """How many trials were trained at once."""
        return max(1, whole(self.tags.get(PACK, "1")))

    @property
    def preparing(self) -> float:
        """Seconds that its process took for the base's pictures; 0: not known."""
        return max(0.0, seconds(self.tags.get(PREPARING, "0")))

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
        """Keeps a scored checkpoint, its probe images and its contact sheet; on disk when this
        returns."""
        if scorecard.images is not None:
            save_probe_images(scorecard.images, self.sheet(scorecard.epoch))
        save_sheet(sheet, self.sheet(scorecard.epoch))
        probes = 0 if scorecard.images is None else len(scorecard.images)
        scorecard.images = None  # those of a study would not fit into memory
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


# what a record in memory has as it has it in its file
COPIED = [one.name for one in fields(TrialRecord) if one.name not in ("folder", "epochs")]
KNOWN = {one.name for one in fields(SweepConfig)}  # groups of settings
COPIED_OF_EPOCH = [one.name for one in fields(ScoredEpoch) if one.name != "scorecard"]


class RecordError(ValueError):
    """A record cannot be read as one; the message says why."""


def load_record(folder: Path) -> TrialRecord:
    """Reads a trial's record; checkpoints are looked for beside it, wherever it was moved.

    Raises:
        RecordError: naming the file.
        OSError: there is none, or it may not be read.
    """
    return _read(_content(folder / FILE), folder)


def _content(file: Path) -> bytes:
    """The bytes of a record.

    Raises:
        RecordError, OSError: see `load_record`.
    """
    try:
        return read_bytes(file)
    except ValueError as error:
        raise _damaged(file, error) from error


def _read(content: bytes, folder: Path) -> TrialRecord:
    """See `read_record`; the message names the file."""
    try:
        return read_record(content, folder)
    except ValueError as error:
        raise _damaged(folder / FILE, error) from error


def _damaged(file: Path, error: ValueError) -> RecordError:
    words = str(error).removeprefix(f"{shortened(file)}: ")
    return RecordError(f"{file} is no record of a trial: {words}")


def read_record(content: bytes | str, folder: Path) -> TrialRecord:
    """The record in its JSON, of a trial whose files are (or would be) in `folder`. What another
    version has written beside what is known here is left out.

    Raises:
        RecordError: it is damaged.
    """
    try:
        saved = parse_json(content, SavedRecord, "record")
    except UntrustedFileError as error:
        raise RecordError(str(error).removeprefix("record: ")) from error
    about = {name: getattr(saved, name) for name in COPIED}
    return TrialRecord(folder=folder, epochs=[_epoch(one, folder) for one in saved.epochs], **about)


def _epoch(saved: SavedEpoch, folder: Path) -> ScoredEpoch:
    card = Scorecard.of(saved.scorecard)
    card.checkpoint = folder / _name_of(card.checkpoint)
    about = {name: getattr(saved, name) for name in COPIED_OF_EPOCH}
    return ScoredEpoch(scorecard=card, **about)


def _name_of(checkpoint: Path) -> str:
    """The name of a checkpoint, wherever it lay when it was recorded.

    Raises:
        RecordError: it is no name of a file.
    """
    name = checkpoint.name
    try:
        length = len(os.fsencode(name))
    except UnicodeError:
        length = 0
    if not 0 < length <= LONGEST_NAME or name == ".." or "\0" in name:
        raise RecordError(f"{format_value(str(checkpoint))} is no name of a checkpoint")
    return name


def load_records(study: Path) -> list[TrialRecord]:
    """The records of all of a study's trials, in order; one that cannot be read is named, once.

    Raises:
        ConfigError: there are more than fit into memory.
    """
    found = sorted((study / "trials").glob(f"*/{FILE}"))
    files = [file for file in found if file.parent.name.isdecimal()]  # and no copy of a folder
    about = [file.stat() for file in files]
    if len(files) > MOST_RECORDS or sum(one.st_size for one in about) > MOST_BYTES:
        raise ConfigError(
            f"{study / 'trials'}: has more than {MOST_RECORDS} records, or more than "
            f"{MOST_BYTES / 1e6:g} MB of them"
        )
    records, memory = [], 0
    for file, one in zip(files, about, strict=True):
        record, more = _load_record(file.parent, one.st_mtime_ns)
        memory += more
        if memory > MOST_MEMORY:
            raise ConfigError(
                f"{study / 'trials'}: its records would take more than {MOST_MEMORY / 1e9:g} GB"
            )
        if record is not None:
            records.append(record)
    return records


@lru_cache(maxsize=10_000)
def _load_record(folder: Path, changed: int) -> tuple[TrialRecord | None, int]:
    """A record, and the memory that it takes. It is kept: a study is looked through after every
    epoch, and most of its trials have ended long ago."""
    file = folder / FILE
    try:
        content = _content(file)
        record = _read(content, folder)
    except RecordError as error:
        log.warning(f"{error}; the trial is left out")
        return None, 0
    # what is kept of all trials is what is known here; who reads one of them alone sees the rest
    record.settings = {n: value for n, value in record.settings.items() if n in KNOWN}
    return record, _memory_of(content)


def _memory_of(content: bytes) -> int:
    """How many bytes of memory the values in a JSON text take, about and at most.

    One character that is not plain makes four bytes of each one beside it in its text.
    """
    commas, colons = content.count(b","), content.count(b":")
    brackets = content.count(b"[") + content.count(b"{")
    plain = content.isascii() and b"\\u" not in content
    return (
        COMMA * commas + BRACKET * brackets + COLON * colons + len(content) * (1 if plain else WIDE)
    )


def resume_record(folder: Path, params: dict[str, Any]) -> TrialRecord | None:
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
