"""Trials of a study that have no result any more, so that what is selected is without them."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

from sweeper.config import MOST_TRIALS
from sweeper.results.checkpoint_files import RESULT
from sweeper.tracking.trial_record import FILE, HOLDER, load_records, trial_folder
from train.data.folders.wording import plural_form
from train.files.untrusted import UntrustedFileError, read_json

MISSING = "missing"  # of RESULT: the numbers of those that were missing then
MOST, SHOWN = 1000, 20  # missing trials that are looked for, and that a line names
NUMBER = re.compile("[0-9]{1,7}")  # of a trial, as the name of its folder
Number = Annotated[int, msgspec.Meta(ge=0, le=MOST_TRIALS)]


def missing_trials(study: Path) -> list[int]:
    """The numbers of trials that have begun and whose record is gone or cannot be read; of very
    many the first.

    Those that come after all that is known here are known to Optuna alone, which a sweep asks.
    A trial that a process holds has perhaps no record yet.
    """
    there = {int(record.folder.name) for record in load_records(study)}
    listed = _listed(study)
    files = (study / "trials").glob(f"*/{FILE}")
    named = {int(file.parent.name) for file in files if NUMBER.fullmatch(file.parent.name)}
    last = max(there | listed | named, default=-1)
    missing = (
        number
        for number in range(last + 1)
        if number not in there and not (trial_folder(study, number) / HOLDER).exists()
    )
    return [*islice(missing, MOST)]


def words_of_missing(study: Path) -> str:
    """Which trials are missing and what to do, in a line; empty where none is."""
    numbers = missing_trials(study)
    if not numbers:
        return ""
    noun, more = plural_form(len(numbers), "trial", "trials"), len(numbers) - SHOWN
    shown = ", ".join(map(str, numbers[:SHOWN])) + (f" and {more} more" if more > 0 else "")
    which = f"{noun} {shown} {plural_form(len(numbers), 'is', 'are')} missing"
    it = plural_form(len(numbers), "it", "them")
    files = f"{trial_folder(study, numbers[0]) / FILE}{' and so on' if len(numbers) > 1 else ''}"
    return (
        f"{which} from the result: {files} is gone or damaged; put {it} back from a copy, or run "
        f"the command of the sweep again, which trains {it} again while its budget lasts"
    )


class _Trial(msgspec.Struct):
    number: Number


class _Result(msgspec.Struct):
    """What is read of a study's result."""

    trials: list[_Trial]
    missing: list[Number] = []


def _listed(study: Path) -> set[int]:
    """Those that the study's result knew of."""
    with suppress(OSError, UntrustedFileError):
        result = read_json(study / RESULT, _Result)
        return {trial.number for trial in result.trials} | {*result.missing}
    return set()
