"""Which LoRA files there are, and after which epoch each was saved."""

from __future__ import annotations

import glob
import logging
from pathlib import Path

from train.checkpoint import CheckpointError, read_metadata
from train.formats import epoch_and_step

log = logging.getLogger(__name__)


def find(pattern: str) -> tuple[str, dict[Path, int]]:
    """The files of a pattern, in the order in which they were saved.

    Returns:
        `epoch`, or `step` where the files tell no epoch or the same one twice; and each file's.

    Raises:
        CheckpointError: no file, one that is no safetensors file, or an order that nothing tells.
    """
    files = [Path(file) for file in sorted(glob.glob(str(Path(pattern).expanduser())))]
    if not files:
        raise CheckpointError(f"checkpoints: no file {pattern}")
    told = [epoch_and_step(file, read_metadata(file)) for file in files]
    for column, unit in enumerate(("epoch", "step")):
        numbers = {file: n for file, pair in zip(files, told, strict=True)
                   if (n := pair[column]) is not None}  # fmt: skip
        if len(set(numbers.values())) == len(numbers) and len(files) - len(numbers) <= 1:
            return unit, _with_last(files, numbers)
    raise CheckpointError(
        f"checkpoints: neither the names nor the metadata of {files[0].name} and the others tell "
        "after which epoch or step each was saved"
    )


def _with_last(files: list[Path], numbers: dict[Path, int]) -> dict[Path, int]:
    """By number; the one file without a number is what a trainer writes at the end."""
    for file in files:
        if file not in numbers:
            numbers[file] = max(numbers.values(), default=0) + 1
            if len(files) > 1:
                log.info(f"{file.name} has no number: it is taken for the last, {numbers[file]}")
    return dict(sorted(numbers.items(), key=lambda item: item[1]))
