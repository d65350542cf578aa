"""The files that a run writes into its folder: how they are called, and deleted."""

from __future__ import annotations

import glob
from pathlib import Path

NAME = "lora"  # what files begin with where nothing else is said


def state_file(folder: Path, name: str = NAME) -> Path:
    """Where the state of a run of this name is; runs of several names may share a folder."""
    return folder / f"{name}-state.pt"


def files_of(folder: Path, name: str) -> list[Path]:
    """The state and the checkpoints that are in a folder under this name, the state first."""
    own, state = glob.escape(name), glob.escape(state_file(folder, name).name)
    names = (state, f"{own}.safetensors", f"{own}-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors")
    return [file for name in names for file in sorted(folder.glob(name))]


def forget(folder: Path, name: str) -> list[Path]:
    """Deletes a run's state and its checkpoints of this name; returns what was there."""
    found = files_of(folder, name)
    for file in found:
        file.unlink()
    return found
