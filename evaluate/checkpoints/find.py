"""Finds the LoRA files of a path, a folder or a pattern."""

from __future__ import annotations

import difflib
import glob
import os
from pathlib import Path

from train.errors import CheckpointError
from train.files.paths import expanded

WEIGHTS, CHECKPOINTS = ".safetensors", "checkpoint-*"  # trainers' folders of one step each
ANY_CASE = "." + "".join(f"[{letter}{letter.upper()}]" for letter in WEIGHTS[1:])
NAMES = {"pytorch_lora_weights", "adapter_model"}  # of diffusers, of PEFT
PICKLES = {".ckpt", ".pt", ".pth", ".bin"}
MAX_SUGGESTIONS = 3
EVERYWHERE = "**"


def find(pattern: str) -> list[Path]:
    """The LoRA files of a path or a pattern, sorted by name.

    An existing path is taken literally, even if it looks like a pattern. A folder means its files
    and those of its folders `checkpoint-*`.

    Raises:
        CheckpointError: there are none; the message suggests similar names.
    """
    try:
        path = expanded(pattern)
        exists = path.exists()
        files = sorted({file for match in _matches(path) for file in _files_in(match)})
    except (OSError, ValueError) as error:  # not readable; a NUL character
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"checkpoints: {pattern:.200}: {reason}") from None
    weights = [file for file in files if file.suffix.lower() == WEIGHTS]
    if weights:
        return weights
    if pickle := next((file for file in files if file.suffix.lower() in PICKLES), None):
        raise CheckpointError(f"{pickle}: only .safetensors is read; a pickle can run code")
    if files or (exists and path.is_dir()):
        raise CheckpointError(f"checkpoints: no {WEIGHTS} file in {pattern:.200}")
    raise CheckpointError(f"checkpoints: no file {pattern:.200}{_similar_names(path)}")


def _matches(path: Path) -> list[Path]:
    """The path itself, else the matches of the pattern, else those with [ ] taken literally."""
    if path.exists():
        return [path]
    for pattern in (str(path), str(path).replace("[", "[[]")):
        if pattern.lower().endswith(WEIGHTS):
            pattern = pattern[: -len(WEIGHTS)] + ANY_CASE
        matches = [Path(file) for file in _glob(pattern)]
        if any(map(_is_weights, matches)):  # other matching folders hold states, samples and so on
            return [match for match in matches if match.is_file() or match.match(CHECKPOINTS)]
        if matches:
            return matches
    return []


def _glob(pattern: str) -> list[str]:
    """The matches of a pattern; ** covers folders at any depth, but does not follow links."""
    if pattern.endswith(EVERYWHERE):
        pattern += "/*"
    before, deep, after = pattern.partition(f"{EVERYWHERE}/")
    if not deep:
        return glob.glob(pattern)
    matches = []
    for start in glob.glob(before) if before else [""]:
        for folder, below, _ in os.walk(start or "."):
            below[:] = sorted(name for name in below if not name.startswith("."))
            matches += _glob(os.path.join(glob.escape(folder), after))
    return matches


def _files_in(path: Path) -> list[Path]:
    """The file; for a folder the files in it, else those one level below, else everything in it.

    In a folder with a file that is named like a LoRA, other files are something else.
    """
    if not path.is_dir():
        return [path]
    for patterns in (("*", f"{CHECKPOINTS}/*"), ("*/*",)):
        files = [file for pattern in patterns for file in path.glob(pattern) if _is_weights(file)]
        named = {file.parent for file in files if file.stem in NAMES}
        if files:
            return [file for file in files if file.stem in NAMES or file.parent not in named]
    return [file for file in path.iterdir() if file.is_file()]


def _is_weights(file: Path) -> bool:
    return file.suffix.lower() == WEIGHTS and not file.name.startswith(".") and file.is_file()


def _similar_names(path: Path) -> str:
    """A hint with existing names that are similar."""
    try:
        folder = next(parent for parent in path.parents if parent.is_dir())
        missing = path.relative_to(folder).parts[0]
        names = {entry.name.lower(): entry.name for entry in folder.iterdir()}
    except (OSError, StopIteration, IndexError):
        return ""
    similar = difflib.get_close_matches(missing.lower(), names, MAX_SUGGESTIONS, cutoff=0.5)
    return (
        "; similar names: " + ", ".join(str(folder / names[name]) for name in similar)
        if similar
        else ""
    )
