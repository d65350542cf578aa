"""Checks what a run may replace if a kohya config chooses its folder or file names."""

from __future__ import annotations

import zipfile
from pathlib import Path

from train.errors import CheckpointError, ConfigError
from train.lora.checkpoint_file import read_metadata
from train.resume.run_files import files_of, state_file
from train.text.display import readable, shortened

PICKLE_NAME = "/data.pkl"  # the part of a state besides its tensors
MAX_PICKLE_BYTES = 100_000_000  # bytes of it
# in a state: the run's identity, see train/resume/run_identity.py
IDENTITY_MARK = b'"fingerprints"'


def check_replaced(folder: Path, name: str) -> None:
    """Rejects a location with files that no resumable run of this name has left.

    Whether it is this very run is decided by its state, once base and dataset are loaded.

    Args:
        folder, name: of a run; the config chooses at least one of them.

    Raises:
        ConfigError: another run's file would be replaced.
    """
    state = state_file(folder, name)
    existing = files_of(folder, name)
    saved = [file for file in existing if file != state]
    foreign = next((file for file in saved if not _is_checkpoint_of(file, name)), None)
    if foreign is None and state not in existing:
        foreign = next(iter(saved), None)  # without a state the run would start over
    if foreign is None and existing == [state] and not _is_state(state):
        foreign = state
    if foreign is not None:
        raise ConfigError(
            f"kohya: output_name: {shortened(foreign)} exists already and belongs to no run that "
            "could continue; a file may not choose what is replaced: type name= or output= "
            "yourself, or move it away"
        )


def _is_checkpoint_of(file: Path, name: str) -> bool:
    """Whether, by its metadata, this program wrote a LoRA file in a run of this name."""
    try:
        metadata = read_metadata(file)
    except (CheckpointError, OSError):
        return False
    return "lorasweep_config" in metadata and metadata.get("ss_output_name") == readable(name)


def _is_state(file: Path) -> bool:
    """Whether a file looks like a run's state; it is not read completely."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = [part for part in archive.infolist() if part.filename.endswith(PICKLE_NAME)]
            sizes = [part.file_size for part in parts]
            return sum(sizes) <= MAX_PICKLE_BYTES and any(
                IDENTITY_MARK in archive.read(p) for p in parts
            )
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return False
