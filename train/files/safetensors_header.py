"""Reads the header of a safetensors file, and checks it before any library maps the file.

The file consists of the length of the header (8 bytes), the header in JSON, and the bytes of the
tensors. Only the header is read here, so a file may be of any size.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from train.files.untrusted import READ_FLAGS, UntrustedFileError, check_regular, parse_json
from train.text.display import CONTROL, MAX_PATH_CHARACTERS, shortened

MAX_HEADER_BYTES = 32_000_000  # bytes
MAX_TENSORS = 50_000  # whole models have some 2,500
MAX_NAME_CHARACTERS = 1000  # characters of a tensor's name
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
METADATA = "__metadata__"
Side = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The location of a tensor in a file.

    Attributes:
        dtype: safetensors' name.
        data_offsets: start and end of its bytes, relative to the end of the header.
    """

    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    shape: Annotated[tuple[Side, ...], msgspec.Meta(max_length=8)]
    data_offsets: tuple[Side, Side]

    @property
    def numbers(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        metadata: texts by name; may be empty.
        tensors: by name, in the order of the file.
        size: offset of the tensors' bytes.
    """

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    size: int

    @property
    def numbers(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.numbers for tensor in self.tensors.values())


def read_header(file: Path) -> Header:
    """The header of a safetensors file, after checking that all its tensors are there.

    Raises:
        UntrustedFileError: not a regular file, or an invalid header; the message does not name the
            file.
        OSError: it is missing or cannot be read.
    """
    check_regular(file)
    with open(os.open(file, READ_FLAGS), "rb") as stream:
        file_size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if file_size < 8 or length > file_size - 8:
            raise UntrustedFileError(f"the file has {file_size} bytes and ends within its header")
        if length > MAX_HEADER_BYTES:
            raise UntrustedFileError(f"its header has more than {MAX_HEADER_BYTES / 1e6:g} MB")
        content = stream.read(length)
    parts = parse_json(content, dict[str, msgspec.Raw], "its header")
    if len(parts) > MAX_TENSORS:
        raise UntrustedFileError(f"it has more than {MAX_TENSORS} tensors")
    raw_metadata = parts.pop(METADATA, None)
    raw = bytes(raw_metadata or b"null")
    metadata = {} if raw == b"null" else parse_json(raw, dict[str, str], METADATA)
    tensors = {name: _stored(name, part) for name, part in parts.items()}
    _check_offsets(tensors, file_size - 8 - length)
    return Header(metadata, tensors, 8 + length)


def _stored(name: str, part: msgspec.Raw) -> TensorInfo:
    if len(name) > MAX_NAME_CHARACTERS or CONTROL.search(name):
        raise UntrustedFileError(f"it has a tensor of an impossible name: {shortened(name)}")
    stored = parse_json(bytes(part), TensorInfo, name[:MAX_PATH_CHARACTERS])
    if stored.dtype not in BITS:
        unknown = shortened(stored.dtype)
        raise UntrustedFileError(f"{shortened(name)}: has numbers of an unknown type, {unknown}")
    start, stop = stored.data_offsets
    if stored.numbers * BITS[stored.dtype] != 8 * (stop - start):
        raise UntrustedFileError(f"{shortened(name)}: its shape is not that of its bytes")
    return stored


def _check_offsets(tensors: dict[str, TensorInfo], total: int) -> None:
    """The bytes of the tensors must be contiguous and fill the rest of the file."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        start, stop = tensor.data_offsets
        if start != end:
            raise UntrustedFileError(
                f"{shortened(name)}: its bytes do not follow those of the one before"
            )
        end = stop
    if end != total:
        raise UntrustedFileError(f"its tensors have {end} bytes, the file has {total}")
