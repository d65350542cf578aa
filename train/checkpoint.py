"""LoRA files: safetensors with kohya's keys and metadata, written atomically, read strictly."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from train.adapter import Adapter
from train.config import UserError
from train.fitting import NotFinite, check_base, fit
from train.formats import read_modules
from train.lora import Adapters
from train.peft_config import read_settings
from train.saved_after import epoch_and_step
from train.strength import alphas


class CheckpointError(UserError, ValueError):
    """A LoRA file cannot be read or does not fit the base; the message says which and why."""


class NotFiniteError(CheckpointError):
    """Weights are no numbers, or too large for the precision in which they are to be saved."""


def check_finite(adapter: Adapter, dtype: torch.dtype) -> None:
    """Refuses an adapter of which a file would be worth nothing.

    Raises:
        NotFiniteError: its weights or alphas are not finite in this precision.
    """
    alphas = torch.tensor(list(adapter.alpha.values()))
    numbers = [*adapter.flat.values(), alphas]
    if all(bool(some.to(dtype).isfinite().all()) for some in numbers):
        return
    word = str(dtype).removeprefix("torch.")
    if all(bool(some.isfinite().all()) for some in numbers):
        largest = max(float(some.detach().abs().max()) for some in numbers if some.numel())
        raise NotFiniteError(f"the weights, up to {largest:.2g}, are too large for {word}")
    raise NotFiniteError("the weights are not finite")


def save_checkpoint(
    path: Path, adapter: Adapter, metadata: dict[str, str], dtype: torch.dtype
) -> None:
    """Writes a LoRA file in one piece: a reader sees the whole file or none.

    Raises:
        NotFiniteError: see `check_finite`.
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    check_finite(adapter, dtype)
    tensors: dict[str, Tensor] = {}
    for key, (down, up) in adapter.matrices.items():
        tensors[f"{key}.lora_down.weight"] = down.to("cpu", dtype)
        tensors[f"{key}.lora_up.weight"] = up.to("cpu", dtype)
        tensors[f"{key}.alpha"] = torch.tensor(adapter.alpha[key], dtype=dtype)
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    write_atomically(path, _serialized(tensors, metadata))


def _serialized(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with kohya's hashes, its header in a fixed order (the library has none).

    `sshs_model_hash` is the sha256 of all that follows the header, `sshs_legacy_hash` the first 8
    digits of the sha256 of 64 KiB that begin at 1 MiB; both of a file with the `ss_` keys alone.
    """
    kohyas = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    content = save(tensors, metadata=kohyas)
    end = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:end]), memoryview(content)[end:]
    header["__metadata__"] = {
        **metadata,
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "format": "pt",
    }
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # the tensors begin at a multiple of 8
    return b"".join([len(head).to_bytes(8, "little"), head, body])


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash it is there whole, as it was before, or not at all.

    Of several processes that write the same one, the last has it.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < len(content):
            wants = f"it takes {len(content) / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
            raise OSError(errno.ENOSPC, wants)
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is there after a write that was broken off
            partial.unlink()


def load_checkpoint(path: Path | str, adapters: Adapters) -> Adapter:
    """Reads a LoRA file, whoever wrote it, into an adapter in float32, on the base's device.

    Raises:
        CheckpointError: see `read_checkpoint`.
    """
    return read_checkpoint(path, adapters)[0]


def read_checkpoint(path: Path | str, adapters: Adapters) -> tuple[Adapter, list[str]]:
    """Reads a LoRA file, whoever wrote it.

    Returns:
        the adapter in float32, on the base's device; and what of the file the base has no place
        for, such as embeddings that were trained with it: keys, or names of modules.

    Raises:
        NotFiniteError: weights that are not finite.
        CheckpointError: no file, a pickle, another format or kind, another base's LoRA, or a
            strength that is not sure.
    """
    path = Path(path)
    metadata = read_metadata(path)
    tensors = _read(path)
    try:
        settings = read_settings(path, metadata)
        modules, others = read_modules(tensors, settings)
        missing = check_base(modules, adapters, metadata)
        matrices = fit(modules, alphas(modules, settings, metadata), adapters, metadata)
    except NotFinite as error:
        raise NotFiniteError(f"{path}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Adapter(matrices).requires_grad_(False).to(adapters.device), [*others, *missing]


def _read(path: Path) -> dict[str, Tensor]:
    _check_safetensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _check_safetensors(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{path}: only .safetensors is read; a pickle can run code")


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; empty where it has none.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    _check_safetensors(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def epoch_of(path: Path | str) -> int:
    """The epoch of a LoRA file: from its metadata, else from its name; the step where it has none.

    Raises:
        CheckpointError: neither says.
    """
    epoch, step = epoch_and_step(Path(path), read_metadata(path))
    number = step if epoch is None else epoch
    if number is None:
        raise CheckpointError(f"{path}: neither its metadata nor its name tells the epoch")
    return number


def weights_hash(path: Path | str) -> str:
    """sha256 over the names, shapes and bytes of a LoRA file's tensors, metadata left out."""
    digest = hashlib.sha256()
    for key, value in sorted(_read(Path(path)).items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
