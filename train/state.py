"""The state of a run, in a file beside its own: what it needs to go on as if never interrupted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from train.config import cause
from train.memory import REMEDIES, ran_out
from train.outage import outage
from train.weights_file import write_atomically

PARTS = frozenset({
    "config", "remedies", "epoch", "shown", "order", "losses", "last", "skipped", "adapter",
    "optimizer", "kind", "scheduler", "scaler", "random",
})  # fmt: skip


class StateError(ValueError):
    """A file holds no state that can be continued from; the message says why."""


def read_state(file: Path, device: torch.device) -> dict[str, Any] | None:
    """The state in a file; None where there is none. No code in it is run.

    Raises:
        StateError: it is damaged, or of another version.
    """
    if not file.is_file():
        return None
    content = io.BytesIO(file.read_bytes())
    with as_damage():
        state: dict[str, Any] = torch.load(content, map_location=device, weights_only=True)
        if lacking := PARTS - set(state):
            raise StateError(f"it has no {min(lacking)}")
        if unknown := set(state["remedies"]) - set(REMEDIES):
            raise StateError(f"it is of another version, which knows {min(unknown)}")
    return state


@contextmanager
def as_damage() -> Iterator[None]:
    """Within this context what goes wrong is the fault of a state, or else the machine's.

    Raises:
        StateError: it is the state's.
    """
    try:
        yield
    except StateError:
        raise
    except Exception as error:
        if ran_out(error) or outage(error):
            raise
        garbled = isinstance(error, UnpicklingError | EOFError)
        words = "it is garbled, or holds more than numbers" if garbled else cause(error)
        raise StateError(words) from error


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Writes the state in one piece.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(file, buffer.getvalue())
