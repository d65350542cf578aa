"""LoRA files on the level of bytes: headers and hashes.

This module does not import torch, so programs that only read records and files start fast.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from train.errors import CheckpointError
from train.files.safetensors_header import Header, read_header
from train.files.untrusted import UntrustedFileError, check_regular
from train.lora.checkpoint_names import epoch_and_step
from train.text.display import shortened

# torch's names of the number types in a file's header
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
VARIANT_KEY = "lorasweep_variant"  # in the metadata: the name of a variant (evaluate/variants)
BLOCK = 1 << 24  # bytes that are hashed at once
MAX_BYTES = 8_000_000_000  # bytes of a LoRA file; SDXL's of rank 256 in fp32 has 3.5 GB


def check_safetensors(path: Path) -> None:
    """Rejects a file that is not named like a safetensors file.

    Raises:
        CheckpointError: it does not exist, or it is a pickle.
    """
    if not path.exists():
        raise CheckpointError(f"there is no file {shortened(path)}")
    try:
        check_regular(path)
    except UntrustedFileError as error:
        raise CheckpointError(str(error)) from error
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"{shortened(path)}: only .safetensors is read; a pickle can run code"
        )


def header_of(path: Path | str) -> Header:
    """The validated header of a safetensors file.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    file = Path(path)
    check_safetensors(file)
    try:
        header = read_header(file)
    except (UntrustedFileError, OSError) as error:
        raise unreadable(file, error) from error
    if file.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{shortened(file)}: has more than {MAX_BYTES / 1e9:g} GB: no LoRA")
    return header


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that is not a readable safetensors file."""
    return CheckpointError(f"{shortened(path)}: not a readable safetensors file ({error})")


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; may be empty.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    return header_of(path).metadata


def epoch_of(path: Path | str) -> int:
    """The epoch of a LoRA file from its metadata, else from its name; the step if it has none.

    Raises:
        CheckpointError: neither has a number.
    """
    epoch, step = epoch_and_step(Path(path), read_metadata(path))
    number = step if epoch is None else epoch
    if number is None:
        raise CheckpointError(f"{path}: neither its metadata nor its name states the epoch")
    return number


def is_intact(path: Path) -> bool:
    """Whether a file has the weights for which its metadata has kohya's hash.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    header, digest = header_of(path), hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(header.size)
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == header.metadata.get("sshs_model_hash")


def weights_hash(path: Path | str) -> str:
    """sha256 over the names, shapes and bytes of a LoRA file's tensors, without the metadata.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    header, digest = header_of(path), hashlib.sha256()
    with Path(path).open("rb") as stream:
        for key, tensor in sorted(header.tensors.items()):
            dtype = DTYPES.get(tensor.dtype, tensor.dtype)
            digest.update(f"{key}{tensor.shape}torch.{dtype}".encode())
            start, stop = tensor.data_offsets
            stream.seek(header.size + start)
            for left in range(stop - start, 0, -BLOCK):
                digest.update(stream.read(min(BLOCK, left)))
    return digest.hexdigest()
