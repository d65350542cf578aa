"""The record of one trial in its folder: the source of truth, which MLflow mirrors."""

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
    EPOCHS_TAG,
    FAILED,
    INTERRUPTED,
    PACK_TAG,
    PREPARING_TAG,
    RUNNING,
    STOPPED,
    SavedEpoch,
    SavedRecord,
    parse_int,
    parse_seconds,
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

RECORD_FILE = "trial.json"
IN_PROGRESS_FILE = "at-work"  # an empty file: a process runs the trial, or crashed while it did
LEASE_FILE = "holder"  # exists while a process holds the trial
WORKER_TAG = "worker"  # tag: host and process that run the trial, or last did
MAX_NAME_BYTES = 255  # of a file name
# limits of a study: records; bytes of all records (1,000 trials of 60 epochs); bytes of memory
MAX_RECORDS, MAX_BYTES, MAX_MEMORY = 100_000, 300_000_000, 1_500_000_000
# bytes of memory for each such character in a JSON text; per character in a non-ASCII one
COMMA_BYTES, BRACKET_BYTES, COLON_BYTES, WIDE_BYTES = 40, 100, 90, 4


@dataclass
class ScoredEpoch:
    """One scored checkpoint.

    Attributes:
        lr, lr_text_encoder: after its last step; None if the text encoder has no LoRA.
        seconds_training, seconds_scoring: its share of the pack's time.
        time: when it was scored, in milliseconds since 1970.
        weights: SHA-256 of the LoRA's tensors.
        pictures: number of training images since the previous scored epoch.
        probes: number of probe images.
        memory: peak memory so far in gigabytes, of the GPU or of the process.
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
        """Device time for training and scoring."""
        return self.seconds_training + self.seconds_scoring


class Cost(NamedTuple):
    """What a scored epoch cost: its share of the pack's seconds, and peak memory in gigabytes."""

    training: float
    scoring: float
    memory: float = 0.0


@dataclass
class TrialRecord:
    """One trial: its settings, its scored epochs, how it ended.

    Attributes:
        settings: the resolved config, as in conf/sweep.yaml.
        overrides: the Hydra overrides that produced these settings.
        params: the settings that the study searches.
        tags: fingerprints, versions, hardware.
        state: running, complete, stopped, failed or interrupted.
        reason: why it was stopped or failed.
        selected: the selected epoch; None if there is none.
        ended: when it ended, in milliseconds since 1970; 0 if it has not, or if unknown.
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
    def total_epochs(self) -> int:
        """Number of epochs unless the trial is stopped early; 0 if unknown."""
        if EPOCHS_TAG in self.tags:
            return parse_int(self.tags[EPOCHS_TAG])
        epochs = self.setting("training", "epochs")
        return epochs if type(epochs) is int and 0 <= epochs <= MAX_STEPS else 0

    def setting(self, group: str, name: str) -> Scalar:
        """One of its settings; None if it does not exist or is not a single value."""
        settings = self.settings.get(group)
        value = settings.get(name) if isinstance(settings, dict) else None
        return value if isinstance(value, bool | int | float | str) else None

    @property
    def pack(self) -> int:
        """Number of trials that were trained at once."""
        return max(1, parse_int(self.tags.get(PACK_TAG, "1")))

    @property
    def preparing(self) -> float:
        """Seconds that its process took for the base model's images; 0 if unknown."""
        return max(0.0, parse_seconds(self.tags.get(PREPARING_TAG, "0")))

    @property
    def scorecards(self) -> list[Scorecard]:
        return [epoch.scorecard for epoch in self.epochs]

    @property
    def finished(self) -> bool:
        return self.state in (COMPLETE, STOPPED, FAILED)

    def card_of(self, epoch: int) -> Scorecard:
        """The scorecard of a scored epoch."""
        return next(card for card in self.scorecards if card.epoch == epoch)

    def has_epoch(self, epoch: int) -> bool:
        """Whether this epoch has been scored."""
        return any(card.epoch == epoch for card in self.scorecards)

    def add(self, scorecard: Scorecard, saved: Checkpoint, sheet: Image, cost: Cost) -> None:
        """Records a scored checkpoint, its probe images and its contact sheet on disk."""
        if scorecard.images is not None:
            save_probe_images(scorecard.images, self.sheet(scorecard.epoch))
        save_sheet(sheet, self.sheet(scorecard.epoch))
        probes = 0 if scorecard.images is None else len(scorecard.images)
        scorecard.images = None  # the images of a whole study would not fit into memory
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
        """The path of an epoch's contact sheet."""
        return self.folder / "sheets" / f"{epoch:06d}.png"

    def end(self, state: str, reason: str = "", selected: int | None = None) -> None:
        """Records how the trial ended."""
        if not self.finished:
            self.ended = 0 if state == INTERRUPTED else int(time.time() * 1000)
        self.state, self.reason, self.selected = state, reason, selected
        self.save()

    def save(self) -> None:
        """Writes the record atomically."""
        content = {name: value for name, value in vars(self).items() if name != "folder"}
        content["epochs"] = [
            {**vars(epoch), "scorecard": epoch.scorecard.to_dict()} for epoch in self.epochs
        ]
        text = json.dumps(content)  # indentation would take ten times as long
        write_atomically(self.folder / RECORD_FILE, text.encode())


# fields that are the same in memory and in the file
RECORD_FIELDS = [f.name for f in fields(TrialRecord) if f.name not in ("folder", "epochs")]
SETTINGS_GROUPS = {f.name for f in fields(SweepConfig)}  # groups of settings
EPOCH_FIELDS = [f.name for f in fields(ScoredEpoch) if f.name != "scorecard"]


class RecordError(ValueError):
    """A file is not a valid record; the message says why."""


def load_record(folder: Path) -> TrialRecord:
    """Reads a trial's record. Checkpoints are expected next to it, even if it was moved.

    Raises:
        RecordError: it is damaged; the message names the file.
        OSError: it does not exist, or cannot be read.
    """
    return _parse_content(_read_content(folder / RECORD_FILE), folder)


def _read_content(file: Path) -> bytes:
    """The bytes of a record.

    Raises:
        RecordError, OSError: see `load_record`.
    """
    try:
        return read_bytes(file)
    except ValueError as error:
        raise _damaged(file, error) from error


def _parse_content(content: bytes, folder: Path) -> TrialRecord:
    """Like `read_record`, but the error message names the file."""
    try:
        return read_record(content, folder)
    except ValueError as error:
        raise _damaged(folder / RECORD_FILE, error) from error


def _damaged(file: Path, error: ValueError) -> RecordError:
    reason = str(error).removeprefix(f"{shortened(file)}: ")
    return RecordError(f"{file} is not a trial's record: {reason}")


def read_record(content: bytes | str, folder: Path) -> TrialRecord:
    """Parses the JSON of a record. Fields of other versions are ignored.

    Args:
        folder: the folder where the trial's files are, or would be.

    Raises:
        RecordError: it is damaged.
    """
    try:
        saved = parse_json(content, SavedRecord, "record")
    except UntrustedFileError as error:
        raise RecordError(str(error).removeprefix("record: ")) from error
    values = {name: getattr(saved, name) for name in RECORD_FIELDS}
    epochs = [_epoch(epoch, folder) for epoch in saved.epochs]
    return TrialRecord(folder=folder, epochs=epochs, **values)


def _epoch(saved: SavedEpoch, folder: Path) -> ScoredEpoch:
    card = Scorecard.of(saved.scorecard)
    card.checkpoint = folder / checkpoint_name(card.checkpoint)
    values = {name: getattr(saved, name) for name in EPOCH_FIELDS}
    return ScoredEpoch(scorecard=card, **values)


def checkpoint_name(checkpoint: Path) -> str:
    """The file name of a recorded checkpoint, without its folder.

    Raises:
        RecordError: it is not a file name.
    """
    name = checkpoint.name
    try:
        length = len(os.fsencode(name))
    except UnicodeError:
        length = 0
    if not 0 < length <= MAX_NAME_BYTES or name == ".." or "\0" in name:
        raise RecordError(f"{format_value(str(checkpoint))} is not the name of a checkpoint")
    return name


def load_records(study: Path) -> list[TrialRecord]:
    """The readable records of all trials of a study, in order; warns once of a damaged one.

    Raises:
        ConfigError: the records would not fit into memory.
    """
    files = sorted((study / "trials").glob(f"*/{RECORD_FILE}"))
    files = [file for file in files if file.parent.name.isdecimal()]  # no copies of folders
    stats = [file.stat() for file in files]
    if len(files) > MAX_RECORDS or sum(stat.st_size for stat in stats) > MAX_BYTES:
        raise ConfigError(
            f"{study / 'trials'}: has more than {MAX_RECORDS} records, or more than "
            f"{MAX_BYTES / 1e6:g} MB of them"
        )
    records, memory = [], 0
    for file, stat in zip(files, stats, strict=True):
        record, size = _load_record(file.parent, stat.st_mtime_ns)
        memory += size
        if memory > MAX_MEMORY:
            raise ConfigError(
                f"{study / 'trials'}: its records would take more than {MAX_MEMORY / 1e9:g} GB"
            )
        if record is not None:
            records.append(record)
    return records


@lru_cache(maxsize=10_000)
def _load_record(folder: Path, modified: int) -> tuple[TrialRecord | None, int]:
    """A record and the bytes of memory that it takes, cached because all records of a study are
    loaded after every epoch, and most of them no longer change."""
    file = folder / RECORD_FILE
    try:
        content = _read_content(file)
        record = _parse_content(content, folder)
    except RecordError as error:
        log.warning(f"{error}; the trial is left out")
        return None, 0
    # of all trials, only known settings are kept in memory; `load_record` returns the others, too
    record.settings = {n: value for n, value in record.settings.items() if n in SETTINGS_GROUPS}
    return record, _memory_of(content)


def _memory_of(content: bytes) -> int:
    """An upper bound of the bytes of memory that the values in a JSON text take.

    A single non-ASCII character can make Python store its whole string with four bytes each.
    """
    commas, colons = content.count(b","), content.count(b":")
    brackets = content.count(b"[") + content.count(b"{")
    plain = content.isascii() and b"\\u" not in content
    return (
        COMMA_BYTES * commas
        + BRACKET_BYTES * brackets
        + COLON_BYTES * colons
        + len(content) * (1 if plain else WIDE_BYTES)
    )


def resume_record(folder: Path, params: dict[str, Any]) -> TrialRecord | None:
    """The record with which a trial continues; None if the trial starts over.

    A record that is damaged, or that belongs to a trial with other settings, is renamed.

    Args:
        params: the trial's params; empty: they are not compared.
    """
    file = folder / RECORD_FILE
    if not file.exists():
        state_file(folder).unlink(missing_ok=True)  # its earlier epochs would have no scores
        return None
    try:
        record = load_record(folder)
        if not params or record.params == params:
            return record
        reason = f"{file} belongs to a trial with other settings"
    except RecordError as error:
        reason = str(error)
    backup = file.with_name(f"{RECORD_FILE}.{time.time_ns()}")
    file.rename(backup)
    state_file(folder).unlink(missing_ok=True)  # its earlier epochs would have no scores
    log.warning(f"{reason}; it was renamed to {backup.name}, and the trial starts over")
    return None


def study_not_found(study: Path) -> ConfigError:
    """The error for a study that does not exist; it suggests the most similar name."""
    names = sorted(folder.name for folder in study.parent.glob("*") if folder.is_dir())
    hint = suggestion(study.name, names) or (f"; known: {', '.join(names)}" if names else "")
    return ConfigError(f"study: there is no study {study.name}{hint}")


def trial_folder(study: Path, number: int) -> Path:
    """The folder of a trial."""
    return study / "trials" / f"{number:04d}"
