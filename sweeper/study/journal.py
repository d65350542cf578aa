"""Optuna's journal in a study's folder. Each line is checked before Optuna replays it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from filelock import FileLock
from optuna.storages.journal import BaseJournalBackend

from sweeper.study.journal_entries import (
    Line,
    NewStudy,
    NewTrial,
    StudySystemAttribute,
    StudyUserAttribute,
    TrialEnd,
    TrialParam,
    TrialReport,
    TrialSystemAttribute,
    TrialUserAttribute,
)
from train.errors import ConfigError
from train.files.untrusted import UntrustedFileError, check_regular, parse_json
from train.text.display import shortened

LINE_TYPE: Any = Line
MAX_LINE_BYTES = 500_000  # bytes
MAX_BYTES = 100_000_000
MAX_LINES = 500_000  # about 20,000 trials; Optuna needs a kilobyte of memory per line
MAX_REPLAY_COST = 100_000_000  # entries that Optuna copies, about three seconds
LOOKUP_COST = 10  # looking up a trial or a study takes as long as copying ten entries
SKIPPED_LINE = {"op_code": 10, "worker_id": "-"}  # replaces a line whose attribute is dropped
FOLLOW_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class JournalError(ConfigError):
    """The journal is damaged; the message names the file and the line."""


class Journal(BaseJournalBackend):
    """A journal that Optuna can safely read. The file is created with its first line.

    Attributes that Optuna's CMA-ES would unpickle are dropped.

    Raises, when it is read:
        JournalError: a line is not in Optuna's format.
        UntrustedFileError: it is not a regular file.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._lock = file, FileLock(f"{file}.lock")
        self._offsets = [0]  # byte offset of each line, and of the end
        self._replay_cost = ReplayCost()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The complete lines from this number on. Another worker may be writing the next one."""
        try:
            check_regular(self.file)
            stream = self.file.open("rb")
        except FileNotFoundError:
            return
        with stream:
            end = os.fstat(stream.fileno()).st_size
            if end > MAX_BYTES:
                raise self._damaged(None, f"it is larger than {MAX_BYTES / 1e6:g} MB")
            stream.seek(self._offsets[log_number_from])
            for number in range(log_number_from, MAX_LINES):
                line = self._read_line(stream, number, end)
                if not line:
                    return
                if number + 1 == len(self._offsets):
                    self._offsets.append(self._offsets[number] + len(line))
                yield self._parse(line, number)
        raise self._damaged(None, f"it has more than {MAX_LINES} lines")

    def _read_line(self, stream: BinaryIO, number: int, end: int) -> bytes:
        """The next complete line; empty if there is none."""
        line = stream.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise self._damaged(number, f"it is longer than {MAX_LINE_BYTES} bytes")
        complete = line.endswith(b"\n") and stream.tell() <= end
        return line if complete else b""

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        """Parses and checks a line; returns the fields that Optuna knows."""
        try:
            entry: Line = parse_json(line, LINE_TYPE, f"line {number + 1}")
            self._replay_cost.add(entry)
        except UntrustedFileError as error:
            raise self._damaged(None, str(error)) from None
        except ValueError as error:
            raise self._damaged(number, str(error)) from None
        if isinstance(entry, TrialSystemAttribute) and entry.pickled:
            return SKIPPED_LINE
        return dict(msgspec.to_builtins(entry))

    def _damaged(self, number: int | None, reason: str) -> JournalError:
        prefix = "" if number is None else f"line {number + 1}: "
        return JournalError(
            f"{shortened(self.file)} is damaged ({prefix}{reason}); move it away to start the "
            "study over"
        )

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends complete lines, and returns when they are on disk."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._lock:
            flags = os.O_RDWR | os.O_CREAT | FOLLOW_NO_LINK
            with open(os.open(self.file, flags, 0o666), "r+b") as stream:
                truncate_partial_line(stream)
                stream.write(lines.encode())
                stream.flush()
                os.fsync(stream.fileno())


class ReplayCost:
    """Estimates what it costs Optuna to replay a journal.

    For each new entry of a trial, Optuna copies all its earlier entries of the same kind. For each
    parameter, it searches the trials for the first one that has it.
    """

    def __init__(self) -> None:
        self.total, self.trials = 0, 0
        self._entries: Counter[tuple[type, int]] = Counter()
        self._first: dict[str, int] = {}  # parameter -> the first trial with it, or a later one
        self._finished: set[int] = set()

    def add(self, entry: Line) -> None:
        """Counts a line.

        Raises:
            ValueError: replaying the journal would take too long.
        """
        if isinstance(entry, NewTrial):
            self.trials += 1
        elif isinstance(entry, TrialEnd):
            if entry.state not in (0, 4):
                self._finished.add(entry.trial_id)
        elif isinstance(entry, TrialParam):
            if entry.trial_id < self.trials and entry.trial_id not in self._finished:
                self.total += LOOKUP_COST * self._first.get(entry.param_name, self.trials)
                self._first.setdefault(entry.param_name, entry.trial_id)
        elif isinstance(entry, NewStudy):
            self._count(NewStudy, 0, LOOKUP_COST)
        elif isinstance(entry, StudyUserAttribute | StudySystemAttribute):
            self._count(type(entry), entry.study_id)
        elif isinstance(entry, TrialReport | TrialUserAttribute | TrialSystemAttribute):
            self._count(type(entry), entry.trial_id)
        if self.total > MAX_REPLAY_COST:
            raise ValueError("replaying it would take too long")

    def _count(self, kind: type, owner: int, weight: int = 1) -> None:
        self._entries[kind, owner] += 1
        self.total += weight * self._entries[kind, owner]


def truncate_partial_line(stream: BinaryIO) -> None:
    """Removes an incomplete last line, and leaves the stream at the end.

    A killed process leaves such a line. Optuna ignores it, but the next line would be appended to
    it and be lost, too.
    """
    if not stream.seek(0, os.SEEK_END):
        return
    stream.seek(-1, os.SEEK_END)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.seek(0, os.SEEK_END)
