"""LoRA files: safetensors with kohya's keys and metadata, written atomically, read strictly."""

from __future__ import annotations

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
from train.formats import adapter_config, epoch_and_step, to_kohya
from train.lora import Adapters, shape


class CheckpointError(UserError, ValueError):
    """A LoRA file cannot be read or does not fit the base; the message says which and why."""


def save_checkpoint(
    path: Path, adapter: Adapter, metadata: dict[str, str], dtype: torch.dtype
) -> None:
    """Writes a LoRA file in one piece: a reader sees the whole file or none.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
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
            raise OSError(f"it takes {len(content) / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
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

    A missing alpha means alpha = rank, as kohya and diffusers read it.

    Raises:
        CheckpointError: no file, a pickle, another format, or modules that the base has not.
    """
    try:
        config = adapter_config(Path(path), read_metadata(path))
        tensors = to_kohya(_read(Path(path)), config)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    matrices: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in [name for name in tensors if name.endswith(".lora_down.weight")]:
        key = name.removesuffix(".lora_down.weight")
        down, up = tensors.pop(name), tensors.pop(f"{key}.lora_up.weight", None)
        alpha = tensors.pop(f"{key}.alpha", torch.tensor(float(down.shape[0])))
        if up is None:
            raise CheckpointError(f"{path}: {key} has no lora_up.weight")
        key = adapters.aliases.get(key, key)
        _check_fit(path, key, down, up, adapters)
        matrices[key] = down.float(), up.float(), float(alpha)
    if not matrices or tensors:
        stray = next(iter(tensors), "no lora_down.weight in it")
        raise CheckpointError(f"{path}: not a LoRA ({stray})")
    return Adapter(matrices).requires_grad_(False).to(adapters.device)


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
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: only .safetensors is read; a pickle can run code")


def _check_fit(path: Path | str, key: str, down: Tensor, up: Tensor, adapters: Adapters) -> None:
    module = adapters.targets.get(key)
    if module is None:
        raise CheckpointError(f"{path}: the base has no module for {key}; another base's LoRA?")
    weight = shape(module)
    if down.shape[1:] != weight[1:] or up.shape[0] != weight[0] or up.shape[1] != down.shape[0]:
        raise CheckpointError(
            f"{path}: {key} has shapes {tuple(down.shape)}, {tuple(up.shape)}, "
            f"the base's module is {tuple(weight)}; another base's LoRA?"
        )


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
