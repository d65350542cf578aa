"""The state of a run in a file next to its checkpoints, to resume as if never interrupted."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from train.config.parsing import cause
from train.files.atomic_write import write_atomically
from train.files.untrusted import convert, read_bytes
from train.system.oom import FALLBACKS, is_oom
from train.system.outage import outage
from train.text.display import shortened

# maximum bytes of a state: besides tensors, and for each trained parameter
BASE_BYTES, BYTES_PER_PARAMETER = 64_000_000, 64
# the names that the pickle in a state may contain: those that reconstruct its tensors
ALLOWED_GLOBALS = re.compile(
    r"torch (\w+Storage|float32|float16|bfloat16)|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch\.nn\.parameter Parameter|collections OrderedDict"
)
# optimizer states with the shape of a parameter
PARAMETER_SHAPED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
MAX_DEPTH = 20  # levels of nested containers


class StateError(ValueError):
    """A file holds no state that can be resumed from; the message says why."""


Count = Annotated[int, Meta(ge=0, le=10**12)]


class LastCheckpoint(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of the last checkpoint in a state."""

    epoch: Count
    train_loss: float
    lr: float
    lr_text_encoder: float | None
    pictures: Count


class Progress(msgspec.Struct):
    """The parts of a state that are not tensors."""

    config: str
    remedies: list[str]
    epoch: Count
    shown: Count
    skipped: Count
    kind: str
    last: LastCheckpoint | None
    order: dict[tuple[int, int], list[int]]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any] | None
    adapter: dict[str, Any]
    average: dict[str, Any] | None = None


TENSORS = frozenset({"losses", "random"})
PARTS = TENSORS | set(Progress.__struct_fields__)
ADDED: dict[str, Any] = {"average": None}  # parts that older versions lacked


def read_state(file: Path, device: torch.device, count: int) -> dict[str, Any] | None:
    """The state in a file; None if there is none. No code in it is run.

    Args:
        count: number of trained parameters, which limits the size of a state.

    Raises:
        StateError: it is damaged, or of another version.
    """
    if not file.exists():
        return None
    with errors_as_damage():
        content = io.BytesIO(read_bytes(file, BASE_BYTES + BYTES_PER_PARAMETER * count))
        _check_archive(content)
        state: dict[str, Any] = torch.load(content, map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise StateError("it is not a mapping")
        state = ADDED | state
        if missing := PARTS - set(state):
            raise StateError(f"it has no {min(missing)}")
        _check_tensors(state, 0)
        convert({name: state[name] for name in PARTS - TENSORS}, Progress, "its content")
        if unknown := set(state["remedies"]) - set(FALLBACKS):
            raise StateError(f"it is of another version, which knows {min(unknown)}")
    return state


def check_parts(
    state: dict[str, Any], scheduler: LRScheduler, optimizer: Optimizer, kind: str, epochs: int
) -> None:
    """Rejects a state whose parts do not match the run that it would continue.

    Args:
        kind: of the run's optimizer; the state of another kind is not used.
        epochs: of the run.

    Raises:
        StateError: naming the first part that does not match.
    """
    completed, last = state["epoch"], state["last"]
    if (
        completed > epochs
        or (last and last["epoch"] > completed)
        or (completed == epochs and not last)
    ):
        raise StateError("its epochs do not match the run")
    current = scheduler.state_dict()
    for name, value in state["scheduler"].items():
        if name in current:
            _check_same_type(f"scheduler's {name}", value, current[name])
        elif hasattr(type(scheduler), name):
            raise StateError(
                f"its scheduler has {shortened(name)}, which is not one of its numbers"
            )
    if state["losses"].ndim != 1 or not state["losses"].is_floating_point():
        raise StateError("its losses are not a list of numbers")
    if state["kind"] == kind:
        _check_optimizer(state["optimizer"], optimizer)


def _check_optimizer(saved: dict[str, Any], optimizer: Optimizer) -> None:
    groups, states = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(states, dict):
        raise StateError("its optimizer has no groups")
    for group, current in zip(groups, optimizer.param_groups, strict=True):
        for name in current.keys() - {"params"}:
            # keys that an older version lacked keep the run's value
            value = group.setdefault(name, current[name])
            _check_same_type(f"optimizer's {name}", value, current[name])
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for number, tensors in states.items():
        for name, tensor in tensors.items():
            same = name not in PARAMETER_SHAPED or tensor.shape == parameters[number].shape
            if not same:
                raise StateError(f"its optimizer's {name} is of another run")


def _check_same_type(name: str, saved: object, current: object) -> None:
    """Checks that a saved value has the type of the current one; numbers are interchangeable."""
    numbers = (int, float, torch.Tensor, type(None))
    if isinstance(current, dict):
        if not isinstance(saved, dict) or set(saved) != set(current):
            raise StateError(f"its {name} has other parts")
        for key, value in current.items():
            _check_same_type(f"{name} {key}", saved[key], value)
    elif isinstance(current, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(current):
            raise StateError(f"its {name} has other parts")
        for one, other in zip(saved, current, strict=True):
            _check_same_type(name, one, other)
    elif not (isinstance(saved, type(current)) or (isinstance(saved, numbers) and current is None)
              or (isinstance(saved, numbers) and isinstance(current, numbers))):  # fmt: skip
        raise StateError(f"its {name} is of another type")


def _check_archive(content: io.BytesIO) -> None:
    """A state must be an uncompressed zip whose pickle only reconstructs tensors."""
    with zipfile.ZipFile(content) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content.getbuffer()):
            raise StateError("it is compressed")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                _check_names(archive.read(entry))
    content.seek(0)


def _check_names(pickled: bytes) -> None:
    for operation, argument, _ in pickletools.genops(pickled):
        if "GLOBAL" in operation.name and not ALLOWED_GLOBALS.fullmatch(str(argument)):
            raise UnpicklingError
        if operation.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise UnpicklingError


def _check_tensors(value: object, depth: int) -> None:
    """Tensors must not exceed their stored bytes, and containers must not be nested too deeply."""
    if depth > MAX_DEPTH:
        raise StateError("it is nested too deeply")
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type == "meta":
            raise StateError("it has tensors that are not plain numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise StateError("it has tensors that are larger than what is stored of them")
    elif isinstance(value, dict):
        for inner in value.values():
            _check_tensors(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_tensors(inner, depth + 1)


@contextmanager
def errors_as_damage() -> Iterator[None]:
    """Context manager: turns errors into a StateError, unless they are the machine's.

    Raises:
        StateError: the state is at fault.
    """
    try:
        yield
    except StateError:
        raise
    except Exception as error:
        if is_oom(error) or outage(error):
            raise
        garbled = isinstance(error, UnpicklingError | EOFError | zipfile.BadZipFile)
        reason = "it is garbled, or holds more than numbers" if garbled else cause(error)
        raise StateError(reason) from error


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Writes the state atomically.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(file, buffer.getvalue())
