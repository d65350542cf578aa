"""The state of a run, in a file beside its own: what it needs to go on as if never interrupted."""

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

# bytes of a state: what it has beside tensors, and for each number that is trained
SPARE, EACH = 64_000_000, 64
# what the pickle in a state names: how its tensors are put together, and nothing else
NAMES = re.compile(
    r"torch (\w+Storage|float32|float16|bfloat16)|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch\.nn\.parameter Parameter|collections OrderedDict"
)
# what optimizers keep for each number that is trained, by its name
LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
DEEPEST = 20  # containers within containers


class StateError(ValueError):
    """A file holds no state that can be continued from; the message says why."""


Count = Annotated[int, Meta(ge=0, le=10**12)]


class LastCheckpoint(msgspec.Struct, forbid_unknown_fields=True):
    """What a state knows of the last checkpoint."""

    epoch: Count
    train_loss: float
    lr: float
    lr_text_encoder: float | None
    pictures: Count


class Progress(msgspec.Struct):
    """What is no tensor in a state."""

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


TENSORS = frozenset({"losses", "random"})
PARTS = TENSORS | set(Progress.__struct_fields__)


def read_state(file: Path, device: torch.device, numbers: int) -> dict[str, Any] | None:
    """The state in a file; None where there is none. No code in it is run.

    Args:
        numbers: that are trained, by which a state has a size.

    Raises:
        StateError: it is damaged, or of another version.
    """
    if not file.exists():
        return None
    with as_damage():
        content = io.BytesIO(read_bytes(file, SPARE + EACH * numbers))
        _check_archive(content)
        state: dict[str, Any] = torch.load(content, map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise StateError("it is no mapping")
        if lacking := PARTS - set(state):
            raise StateError(f"it has no {min(lacking)}")
        _check_tensors(state, 0)
        convert({name: state[name] for name in PARTS - TENSORS}, Progress, "its content")
        if unknown := set(state["remedies"]) - set(FALLBACKS):
            raise StateError(f"it is of another version, which knows {min(unknown)}")
    return state


def check_parts(
    state: dict[str, Any], scheduler: LRScheduler, optimizer: Optimizer, kind: str, epochs: int
) -> None:
    """Refuses a state whose parts are not like those of the run that it is to continue.

    Args:
        kind: of the run's optimizer; the state of another one is left out.
        epochs: of the run.

    Raises:
        StateError: with the first part that is another one.
    """
    done, last = state["epoch"], state["last"]
    if done > epochs or (last and last["epoch"] > done) or (done == epochs and not last):
        raise StateError("its epochs are not the run's")
    own = scheduler.state_dict()
    for name, value in state["scheduler"].items():
        if name in own:
            _check_alike(f"scheduler's {name}", value, own[name])
        elif hasattr(type(scheduler), name):
            raise StateError(f"its scheduler has {shortened(name)}, which is none of its numbers")
    if state["losses"].ndim != 1 or not state["losses"].is_floating_point():
        raise StateError("its losses are no numbers in a row")
    if state["kind"] == kind:
        _check_optimizer(state["optimizer"], optimizer)


def _check_optimizer(found: dict[str, Any], optimizer: Optimizer) -> None:
    groups, held = found.get("param_groups"), found.get("state")
    if not isinstance(groups, list) or not isinstance(held, dict):
        raise StateError("its optimizer has no groups")
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        for name in own.keys() - {"params"}:
            # what an older version did not have is as the run has it
            _check_alike(f"optimizer's {name}", group.setdefault(name, own[name]), own[name])
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for number, kept in held.items():
        for name, tensor in kept.items():
            same = name not in LIKE_PARAMETER or tensor.shape == parameters[number].shape
            if not same:
                raise StateError(f"its optimizer's {name} is of another run")


def _check_alike(name: str, found: object, own: object) -> None:
    """What is loaded has the types of what is there; numbers are as good as one another."""
    numbers = (int, float, torch.Tensor, type(None))
    if isinstance(own, dict):
        if not isinstance(found, dict) or set(found) != set(own):
            raise StateError(f"its {name} has other parts")
        for key, value in own.items():
            _check_alike(f"{name} {key}", found[key], value)
    elif isinstance(own, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(own):
            raise StateError(f"its {name} has other parts")
        for one, other in zip(found, own, strict=True):
            _check_alike(name, one, other)
    elif not (isinstance(found, type(own)) or (isinstance(found, numbers) and own is None)
              or (isinstance(found, numbers) and isinstance(own, numbers))):  # fmt: skip
        raise StateError(f"its {name} is of another type")


def _check_archive(content: io.BytesIO) -> None:
    """A state is a zip of what it is long, and its pickle puts tensors together."""
    with zipfile.ZipFile(content) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content.getbuffer()):
            raise StateError("it is packed")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                _check_names(archive.read(entry))
    content.seek(0)


def _check_names(pickled: bytes) -> None:
    for operation, argument, _ in pickletools.genops(pickled):
        if "GLOBAL" in operation.name and not NAMES.fullmatch(str(argument)):
            raise UnpicklingError
        if operation.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise UnpicklingError


def _check_tensors(value: object, depth: int) -> None:
    """Tensors are no larger than what is stored of them, and containers are not too deep."""
    if depth > DEEPEST:
        raise StateError("it is nested too deeply")
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type == "meta":
            raise StateError("it has tensors that are no plain numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise StateError("it has tensors that are larger than what is stored of them")
    elif isinstance(value, dict):
        for inner in value.values():
            _check_tensors(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_tensors(inner, depth + 1)


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
        if is_oom(error) or outage(error):
            raise
        garbled = isinstance(error, UnpicklingError | EOFError | zipfile.BadZipFile)
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
