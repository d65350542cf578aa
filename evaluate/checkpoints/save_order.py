"""The order in which LoRA files were saved, and the epoch or step of each."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from train.errors import CheckpointError
from train.lora.checkpoint_names import from_metadata, from_names, name_of, run_of

log = logging.getLogger(__name__)
Numbers = dict[Path, int]
Pair = tuple[int | None, int | None]  # epoch and step
EPOCH, STEP = "epoch", "step"
SESSION = "ss_session_id"  # kohya's; unique for each start of a training
DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d"
    r"(?:[-_T ][0-2]\d[-_.]?[0-5]\d(?:[-_.]?[0-5]\d)?)?(?!\d)"
)
MAX_NAMES, MAX_DIGITS = 3, 12  # names in a line; digits of a number that counts something


def order(metadata: Mapping[Path, Mapping[str, str]]) -> tuple[str, Numbers]:
    """The files in the order in which they were saved.

    Uses the metadata first, then the trainers' naming schemes, then the only number in which the
    names differ. A single file without a number is the one that a trainer writes at the end.

    Args:
        metadata: of each file.

    Returns:
        `epoch`, or `step` if the epochs are absent or not unique; and each file's number.

    Raises:
        CheckpointError: the order cannot be determined.
    """
    files = list(metadata)
    written = {file: from_metadata(metadata[file]) for file in files}
    named = from_names(files)
    both = {file: written[file] if written[file] != (None, None) else named[file] for file in files}
    for unit, numbers in _numberings(both, named):
        if len(set(numbers.values())) == len(numbers) and len(files) - len(numbers) <= 1:
            _warn_of_runs({file: metadata[file] for file in numbers})
            _warn_of_contradictions(numbers, written, named, unit == STEP)
            return unit, _with_last(files, numbers)
    raise CheckpointError(_why_unordered(both))


def _numberings(*sources: Mapping[Path, Pair]) -> Iterator[tuple[str, Numbers]]:
    """Possible numberings of the files, most reliable first; numbers may not be unique."""
    for pairs in sources:
        for column, unit in enumerate((EPOCH, STEP)):
            yield unit, {file: n for file, pair in pairs.items() if (n := pair[column]) is not None}
    names = {file: name_of(file) for file in sources[0]}
    yield EPOCH, _varying(names)
    yield EPOCH, _by_date(names)


def _varying(names: Mapping[Path, str]) -> Numbers:
    """The only number in which most names differ, for the files with that pattern of names."""
    pieces = {file: re.split(r"([0-9]+)", DATE.sub("", name)) for file, name in names.items()}
    texts = {file: tuple(parts[::2]) for file, parts in pieces.items()}
    usual = Counter(texts.values()).most_common(1)[0][0]
    rows = {file: parts[1::2] for file, parts in pieces.items() if texts[file] == usual}
    columns = list(zip(*rows.values(), strict=True))
    differing = [column for column in columns if len(set(column)) > 1]
    if len(differing) != 1 or any(len(digits) > MAX_DIGITS for digits in differing[0]):
        return {}
    return dict(zip(rows, map(int, differing[0]), strict=True))


def _by_date(names: Mapping[Path, str]) -> Numbers:
    """1, 2, 3 ... in the order of the dates in the names."""
    dates = {file: match[0] for file, name in names.items() if (match := DATE.search(name))}
    if len(set(dates.values())) < len(dates):
        return {}
    return {file: i for i, file in enumerate(sorted(dates, key=dates.__getitem__), start=1)}


def _with_last(files: list[Path], numbers: Numbers) -> Numbers:
    """Sorted by number; a single file without a number is numbered as the last."""
    for file in files:
        if file not in numbers:
            numbers[file] = max(numbers.values(), default=0) + 1
            if len(files) > 1:
                log.info(f"{file.name} has no number: it is taken for the last, {numbers[file]}")
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def _warn_of_runs(metadata: Mapping[Path, Mapping[str, str]]) -> None:
    """Warns if the files come from several trainings, which may not be what was meant."""
    sessions = {file: about.get(SESSION, "") for file, about in metadata.items()}
    if not all(sessions.values()):
        names = {file: run_of(file) for file in metadata}
        numbered = {name for file, name in names.items() if name != name_of(file)}
        sessions = {
            file: name if name in numbered else re.sub(r"[0-9]+", "#", name)
            for file, name in names.items()
        }
    first = {session: file for file, session in reversed(sessions.items())}
    if len(first) > 1:
        alike = len({file.name for file in first.values()}) < len(first)  # in several folders
        labels = (f"{f.parent.name}/{f.name}" if alike else f.name for f in first.values())
        shown = ", ".join(sorted(labels)[:MAX_NAMES])
        log.warning(f"the files are of {len(first)} runs, scored as one sequence: {shown} ...")


def _warn_of_contradictions(
    numbers: Numbers, written: Mapping[Path, Pair], named: Mapping[Path, Pair], column: int
) -> None:
    """Warns of names that contradict the metadata, which have precedence."""
    wrong = [
        file
        for file, number in numbers.items()
        if written[file][column] == number and named[file][column] not in (None, number)
    ]
    for file in wrong[:1]:
        log.warning(
            f"{len(wrong)} files have other numbers in their names than in their metadata, which "
            f"are taken: {file.name} has {numbers[file]}, not {named[file][column]}"
        )


def _why_unordered(pairs: Mapping[Path, Pair]) -> str:
    known: dict[Pair, Path] = {}
    for file, pair in pairs.items():
        if pair != (None, None) and (other := known.setdefault(pair, file)) != file:
            number = f"epoch {pair[0]}" if pair[0] is not None else f"step {pair[1]}"
            return (
                f"checkpoints: {other} and {file} are both of {number}; take the files of one "
                "run alone"
            )
    return (
        f"checkpoints: neither the names nor the metadata of {next(iter(pairs)).name} and the "
        "others tell after which epoch or step each was saved"
    )
