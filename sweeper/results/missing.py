"""Trials of a study that have no result any more, so that what is selected is without them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from sweeper.recording.record import FILE, HOLDER, load_records, trial_folder
from sweeper.results.files import RESULT
from train.data.wording import agreed

MISSING = "missing"  # of RESULT: the numbers of those that were missing then


def missing_trials(study: Path) -> list[int]:
    """The numbers of trials that have begun and whose record is gone or cannot be read.

    Those that come after all that is known here are known to Optuna alone, which a sweep asks.
    A trial that a process holds has perhaps no record yet.
    """
    there = {int(record.folder.name) for record in load_records(study)}
    listed = _listed(study)
    files = (study / "trials").glob(f"*/{FILE}")
    named = {int(file.parent.name) for file in files if file.parent.name.isdecimal()}
    last = max(there | listed | named, default=-1)
    return [
        number
        for number in range(last + 1)
        if number not in there and not (trial_folder(study, number) / HOLDER).exists()
    ]


def words_of_missing(study: Path) -> str:
    """Which trials are missing and what to do, in a line; empty where none is."""
    numbers = missing_trials(study)
    if not numbers:
        return ""
    noun = agreed(len(numbers), "trial", "trials")
    which = f"{noun} {', '.join(map(str, numbers))} {agreed(len(numbers), 'is', 'are')} missing"
    it = agreed(len(numbers), "it", "them")
    files = f"{trial_folder(study, numbers[0]) / FILE}{' and so on' if len(numbers) > 1 else ''}"
    return (
        f"{which} from the result: {files} is gone or damaged; put {it} back from a copy, or run "
        f"the command of the sweep again, which trains {it} again while its budget lasts"
    )


def _listed(study: Path) -> set[int]:
    """Those that the study's result knew of."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        result = json.loads((study / RESULT).read_bytes())
        return {int(one["number"]) for one in result["trials"]} | {*result.get(MISSING, [])}
    return set()
