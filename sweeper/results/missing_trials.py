"""Trials of a study whose records are lost, so that the selection does not include them."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

from sweeper.config import MAX_TRIALS
from sweeper.results.checkpoint_files import RESULT_FILE
from sweeper.tracking.trial_record import LEASE_FILE, RECORD_FILE, load_records, trial_folder
from train.data.folders.wording import plural_form
from train.files.untrusted import UntrustedFileError, read_json

MISSING_KEY = "missing"  # key in RESULT_FILE: numbers of the trials that were missing
MAX_MISSING, MAX_SHOWN = 1000, 20  # missing trials that are returned, and that a message lists
NUMBER = re.compile("[0-9]{1,7}")  # a trial number, as the name of a folder
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_TRIALS)]


def missing_trials(study: Path) -> list[int]:
    """The first MAX_MISSING numbers of trials that were started and whose record is missing or
    damaged.

    Lost trials after the last one that the folder or the result mentions are known only to
    Optuna, which a sweep asks. A trial that a process holds may have no record yet, so it does
    not count as missing.
    """
    present = {int(record.folder.name) for record in load_records(study)}
    listed = _trials_in_result(study)
    files = (study / "trials").glob(f"*/{RECORD_FILE}")
    with_record = {int(file.parent.name) for file in files if NUMBER.fullmatch(file.parent.name)}
    last = max(present | listed | with_record, default=-1)
    missing = (
        number
        for number in range(last + 1)
        if number not in present and not (trial_folder(study, number) / LEASE_FILE).exists()
    )
    return [*islice(missing, MAX_MISSING)]


def describe_missing(study: Path) -> str:
    """Which trials are missing and what to do, in one line; empty if none is missing."""
    numbers = missing_trials(study)
    if not numbers:
        return ""
    noun, hidden = plural_form(len(numbers), "trial", "trials"), len(numbers) - MAX_SHOWN
    listed = ", ".join(map(str, numbers[:MAX_SHOWN]))
    listed += f" and {hidden} more" if hidden > 0 else ""
    subject = f"{noun} {listed} {plural_form(len(numbers), 'is', 'are')} missing"
    pronoun = plural_form(len(numbers), "it", "them")
    first = trial_folder(study, numbers[0]) / RECORD_FILE
    files = f"{first}{' and so on' if len(numbers) > 1 else ''}"
    return (
        f"{subject} from the result: {files} is gone or damaged; restore {pronoun} from a copy, "
        f"or repeat the sweep's command, which retrains {pronoun} within the study's budget"
    )


class _Trial(msgspec.Struct):
    number: Number


class _Result(msgspec.Struct):
    """The fields of a study's result that are read."""

    trials: list[_Trial]
    missing: list[Number] = []


def _trials_in_result(study: Path) -> set[int]:
    """The numbers of the trials that the study's result mentions."""
    with suppress(OSError, UntrustedFileError):
        result = read_json(study / RESULT_FILE, _Result)
        return {trial.number for trial in result.trials} | {*result.missing}
    return set()
