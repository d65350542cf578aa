"""LoRA files as files: headers, hashes, and a way to write them that no crash leaves half done.

Nothing here needs torch, so that what only reads records and files starts at once.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from train.config import UserError
from train.encoding import shortened, storable
from train.gate import GateError, check_regular
from train.header import Header, read_header
from train.saved_after import epoch_and_step

# how torch calls the types of numbers that a file's header names
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
BLOCK = 1 << 24  # bytes of a file that are hashed at once
LARGEST = 8_000_000_000  # bytes of a LoRA file; SDXL's of rank 256 in fp32 has 3.5 GB


_without_links: set[Path] = set()  # folders below which nothing is written through a link


class CheckpointError(UserError, ValueError):
    """A LoRA file cannot be read or does not fit the base; the message says which and why."""


def keep_links_out(folder: Path) -> None:
    """From now on nothing is written below this folder through a link, nor if it is one itself."""
    _without_links.add(Path(os.path.abspath(folder)))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash it is there whole, as it was before, or not at all.

    Of several processes that write the same one, the last has it. A link in the place of the file
    is replaced, not followed.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full; or a link is
            on its way, where there may be none (see `keep_links_out`).
    """
    _refuse_links(path)
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < len(content):
            wants = f"it takes {len(content) / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
            raise OSError(errno.ENOSPC, wants)
        with partial.open("xb") as stream:  # a file that is made anew is no link
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is there after a write that was broken off
            partial.unlink()


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text in UTF-8, surrogates escaped; see `write_atomically`.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_atomically(path, storable(text).encode())


def _refuse_links(path: Path) -> None:
    """Raises CheckpointError where a folder on the way to a file is a link that may be none."""
    place = Path(os.path.abspath(path)).parent
    within = [place, *place.parents]
    for folder in _without_links.intersection(within):
        for one in within[: within.index(folder) + 1]:
            if one.is_symlink():
                raise CheckpointError(f"{path} is not written: {one} is a link; remove it")


def check_safetensors(path: Path) -> None:
    """Refuses what is no safetensors file by its name.

    Raises:
        CheckpointError: no file, or a pickle.
    """
    if not path.exists():
        raise CheckpointError(f"there is no file {shortened(path)}")
    try:
        check_regular(path)
    except GateError as error:
        raise CheckpointError(str(error)) from error
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"{shortened(path)}: only .safetensors is read; a pickle can run code"
        )


def header_of(path: Path | str) -> Header:
    """The header of a safetensors file, checked.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    file = Path(path)
    check_safetensors(file)
    try:
        header = read_header(file)
    except (GateError, OSError) as error:
        raise unreadable(file, error) from error
    if file.stat().st_size > LARGEST:
        raise CheckpointError(f"{shortened(file)}: has more than {LARGEST / 1e9:g} GB: no LoRA")
    return header


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error of a file that is no safetensors file, in one line."""
    return CheckpointError(f"{shortened(path)}: not a readable safetensors file ({error})")


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; empty where it has none.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    return header_of(path).metadata


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
    """sha256 over the names, shapes and bytes of a LoRA file's tensors, metadata left out.

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
