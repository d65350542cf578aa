"""The order in which LoRA files were saved, and the epoch or step of each."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from train.data.folders.wording import count_noun, plural_form
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


def order_files(metadata: Mapping[Path, Mapping[str, str]]) -> tuple[str, Numbers]:
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
    in_metadata = {file: from_metadata(metadata[file]) for file in files}
    in_names = from_names(files)
    both = {
        file: in_metadata[file] if in_metadata[file] != (None, None) else in_names[file]
        for file in files
    }
    for unit, numbers in _numberings(both, in_names):
        if len(set(numbers.values())) == len(numbers) and len(files) - len(numbers) <= 1:
            _warn_of_runs({file: metadata[file] for file in numbers})
            _warn_of_contradictions(numbers, in_metadata, in_names, unit == STEP)
            return unit, _with_unnumbered_last(files, numbers)
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
    pattern = Counter(texts.values()).most_common(1)[0][0]
    rows = {file: parts[1::2] for file, parts in pieces.items() if texts[file] == pattern}
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


def _with_unnumbered_last(files: list[Path], numbers: Numbers) -> Numbers:
    """Sorted by number; a single file without a number is numbered as the last."""
    for file in files:
        if file not in numbers:
            numbers[file] = max(numbers.values(), default=0) + 1
            if len(files) > 1:
                log.info(
                    f"{file.name} has no number: it is assumed to be the last, {numbers[file]}"
                )
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def _warn_of_runs(metadata: Mapping[Path, Mapping[str, str]]) -> None:
    """Warns if the files come from several trainings, which may not be what was meant."""
    sessions = {file: file_metadata.get(SESSION, "") for file, file_metadata in metadata.items()}
    if not all(sessions.values()):
        names = {file: run_of(file) for file in metadata}
        numbered = {name for file, name in names.items() if name != name_of(file)}
        sessions = {
            file: name if name in numbered else re.sub(r"[0-9]+", "#", name)
            for file, name in names.items()
        }
    first = {session: file for file, session in reversed(sessions.items())}
    if len(first) > 1:
        ambiguous = len({file.name for file in first.values()}) < len(first)  # in several folders
        labels = (f"{f.parent.name}/{f.name}" if ambiguous else f.name for f in first.values())
        listed = ", ".join(sorted(labels)[:MAX_NAMES])
        log.warning(
            f"the files belong to {len(first)} runs and are scored as one sequence: {listed} ..."
        )


def _warn_of_contradictions(
    numbers: Numbers, in_metadata: Mapping[Path, Pair], in_names: Mapping[Path, Pair], column: int
) -> None:
    """Warns of names that contradict the metadata, which have precedence."""
    wrong = [
        file
        for file, number in numbers.items()
        if in_metadata[file][column] == number and in_names[file][column] not in (None, number)
    ]
    for file in wrong[:1]:
        log.warning(
            f"{count_noun(len(wrong), 'file')} {plural_form(len(wrong), 'has', 'have')} a number "
            f"in the name that contradicts the metadata, which are used: {file.name} has "
            f"{numbers[file]}, not {in_names[file][column]}"
        )


def _why_unordered(pairs: Mapping[Path, Pair]) -> str:
    seen: dict[Pair, Path] = {}
    for file, pair in pairs.items():
        if pair != (None, None) and (other := seen.setdefault(pair, file)) != file:
            number = f"epoch {pair[0]}" if pair[0] is not None else f"step {pair[1]}"
            return (
                f"checkpoints: {other} and {file} are both of {number}; take the files of one "
                "run alone"
            )
    return (
        f"checkpoints: neither the names nor the metadata of {next(iter(pairs)).name} and the "
        "others tell after which epoch or step each was saved"
    )
