"""The state of a run, in a file beside its own: what it needs to go on as if never interrupted."""

from __future__ import annotations

import glob
import io
from pathlib import Path
from typing import Any

import torch

from train.checkpoint import write_atomically

NAME = "lora"  # what files begin with where nothing else is said


def state_file(folder: Path, name: str = NAME) -> Path:
    """Where the state of a run of this name is; runs of several names may share a folder."""
    return folder / f"{name}-state.pt"


def read_state(file: Path, device: torch.device) -> dict[str, Any] | None:
    """The state in a file; None where there is none."""
    if not file.is_file():
        return None
    state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    return state


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Writes the state in one piece.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(file, buffer.getvalue())


def forget(folder: Path, name: str) -> list[Path]:
    """Deletes a run's state and its checkpoints of this name; returns what was there."""
    own, state = glob.escape(name), glob.escape(state_file(folder, name).name)
    names = (state, f"{own}.safetensors", f"{own}-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors")
    found = [file for name in names for file in sorted(folder.glob(name))]
    for file in found:
        file.unlink()
    return found
