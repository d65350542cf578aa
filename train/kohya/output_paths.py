"""What a run may replace whose folder, or the name of whose files, a kohya config says."""

from __future__ import annotations

import zipfile
from pathlib import Path

from train.errors import CheckpointError, ConfigError
from train.lora.checkpoint_file import read_metadata
from train.resume.run_files import files_of, state_file
from train.text.display import readable, shortened

CONTENT = "/data.pkl"  # what a state has beside its tensors
LARGEST = 100_000_000  # bytes of it
IDENTITY = b'"fingerprints"'  # in a state: of which run it is, see train/resume/run_identity.py


def check_replaced(folder: Path, name: str) -> None:
    """Refuses a place where files lie that no run of this name has left, to be gone on with.

    Whether the run is this very one is known by its state, once base and pictures are there.

    Args:
        folder, name: of a run; a config says at least one of them.

    Raises:
        ConfigError: a file would be replaced that is another's.
    """
    state = state_file(folder, name)
    found = files_of(folder, name)
    saved = [file for file in found if file != state]
    other = next((file for file in saved if not _is_own(file, name)), None)
    if other is None and state not in found:
        other = next(iter(saved), None)  # nothing tells the run, which would begin anew
    if other is None and found == [state] and not _is_state(state):
        other = state
    if other is not None:
        raise ConfigError(
            f"kohya: output_name: {shortened(other)} is there already, and is of no run that could "
            "go on; a file does not choose what is replaced: type name= or output= of your own, or "
            "move it away"
        )


def _is_own(file: Path, name: str) -> bool:
    """Whether a LoRA file says that a run of this name made it, by this program."""
    try:
        about = read_metadata(file)
    except (CheckpointError, OSError):
        return False
    return "lorasweep_config" in about and about.get("ss_output_name") == readable(name)


def _is_state(file: Path) -> bool:
    """Whether a file is the state of a run, as far as that is known without reading it all."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = [part for part in archive.infolist() if part.filename.endswith(CONTENT)]
            sizes = [part.file_size for part in parts]
            return sum(sizes) <= LARGEST and any(IDENTITY in archive.read(p) for p in parts)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return False
