"""LoRA files: safetensors with kohya's keys and metadata, written atomically, read strictly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from train.errors import CheckpointError
from train.files.atomic_write import write_atomically
from train.lora.adapter import Adapter
from train.lora.alphas import alphas
from train.lora.checkpoint_file import read_metadata, unreadable
from train.lora.conversion import read_modules
from train.lora.fitting import NonFiniteTensorError, check_lora_base, fit
from train.lora.injection import LoRAInjector
from train.lora.peft_config import read_settings


class NonFiniteError(CheckpointError):
    """Weights are not finite, or overflow the precision in which they are to be saved."""


def check_finite(adapter: Adapter, dtype: torch.dtype) -> None:
    """Rejects an adapter whose file would be useless.

    Raises:
        NonFiniteError: its weights or alphas are not finite in this precision.
    """
    alphas = torch.tensor(list(adapter.alpha.values()))
    numbers = [*adapter.flat.values(), alphas]
    if all(bool(values.to(dtype).isfinite().all()) for values in numbers):
        return
    dtype_name = str(dtype).removeprefix("torch.")
    if all(bool(values.isfinite().all()) for values in numbers):
        largest = max(float(values.detach().abs().max()) for values in numbers if values.numel())
        raise NonFiniteError(f"the weights, up to {largest:.2g}, are too large for {dtype_name}")
    raise NonFiniteError("the weights are not finite")


def save_checkpoint(
    path: Path, adapter: Adapter, metadata: dict[str, str], dtype: torch.dtype
) -> None:
    """Writes a LoRA file atomically: a reader sees the whole file or none.

    Raises:
        NonFiniteError: see `check_finite`.
        CheckpointError: the file cannot be written, for example because the disk is full.
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
    """A safetensors file with kohya's hashes and a sorted header (the library does not sort it).


    `sshs_model_hash` is the sha256 of everything after the header, `sshs_legacy_hash` the first 8
    digits of the sha256 of the 64 KiB at offset 1 MiB; both for a file with only the `ss_` keys.
    """
    kohya_metadata = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    content = save(tensors, metadata=kohya_metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:end]), memoryview(content)[end:]
    header["__metadata__"] = {
        **metadata,
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "format": "pt",
    }
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # tensors start at a multiple of 8
    return b"".join([len(head).to_bytes(8, "little"), head, body])


def load_checkpoint(path: Path | str, adapters: LoRAInjector) -> Adapter:
    """Reads a LoRA file of any trainer into an adapter in float32, on the base's device.

    Raises:
        CheckpointError: see `read_checkpoint`.
    """
    return read_checkpoint(path, adapters)[0]


def read_checkpoint(path: Path | str, adapters: LoRAInjector) -> tuple[Adapter, list[str]]:
    """Reads a LoRA file of any trainer.

    Returns:
        the adapter in float32, on the base's device; and the keys or module names that the base
        has no place for, such as embeddings that were trained along with it.

    Raises:
        NonFiniteError: the weights are not finite.
        CheckpointError: no file, a pickle, another format or kind, another base's LoRA, or an
            ambiguous strength.
    """
    path = Path(path)
    metadata = read_metadata(path)
    tensors = _read(path)
    try:
        settings = read_settings(path, metadata)
        modules, others = read_modules(tensors, settings)
        missing = check_lora_base(modules, adapters, metadata)
        matrices = fit(modules, alphas(modules, settings, metadata), adapters, metadata)
    except NonFiniteTensorError as error:
        raise NonFiniteError(f"{path}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Adapter(matrices).requires_grad_(False).to(adapters.device), [*others, *missing]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
