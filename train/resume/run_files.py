"""The files that a run writes into its folder: their names and their deletion."""

from __future__ import annotations

import glob
from pathlib import Path

DEFAULT_NAME = "lora"  # the default prefix of files


def state_file(folder: Path, name: str = DEFAULT_NAME) -> Path:
    """The path of a run's state; runs with different names may share a folder."""
    return folder / f"{name}-state.pt"


def files_of(folder: Path, name: str) -> list[Path]:
    """The state and the checkpoints in a folder with this name, the state first."""
    stem, state = glob.escape(name), glob.escape(state_file(folder, name).name)
    names = (state, f"{stem}.safetensors", f"{stem}-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors")
    return [file for name in names for file in sorted(folder.glob(name))]


def delete_run_files(folder: Path, name: str) -> list[Path]:
    """Deletes the state and the checkpoints with this name; returns what was deleted."""
    files = files_of(folder, name)
    for file in files:
        file.unlink()
    return files
