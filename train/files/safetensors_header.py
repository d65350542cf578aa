"""The header of a safetensors file, checked before any library maps the file.

The file is the length of the header (8 bytes), the header in JSON, and the tensors' bytes. Only the
header is read here, so that a file may be of any size.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from train.files.untrusted import READ, UntrustedFileError, check_regular, parse_json
from train.text.display import CONTROL, LONGEST, shortened

LARGEST_HEADER = 32_000_000  # bytes
MOST_TENSORS = 50_000  # whole models have some 2,500
LONGEST_NAME = 1000  # characters of a tensor's name
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
METADATA = "__metadata__"
Side = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a tensor is in a file.

    Attributes:
        dtype: as safetensors calls it.
        data_offsets: where its bytes begin and end, counted from the end of the header.
    """

    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    shape: Annotated[tuple[Side, ...], msgspec.Meta(max_length=8)]
    data_offsets: tuple[Side, Side]

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        metadata: texts by name; empty where it has none.
        tensors: by name, in the order of the file.
        size: bytes before the tensors' bytes begin.
    """

    metadata: dict[str, str]
    tensors: dict[str, Stored]
    size: int

    @property
    def numbers(self) -> int:
        """How many numbers all its tensors have."""
        return sum(tensor.numbers for tensor in self.tensors.values())


def read_header(file: Path) -> Header:
    """The header of a safetensors file; all that it says is there.

    Raises:
        UntrustedFileError: no regular file, or no such header; the message does not name the file.
        OSError: it is not there, or may not be read.
    """
    check_regular(file)
    with open(os.open(file, READ), "rb") as stream:
        whole = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if whole < 8 or length > whole - 8:
            raise UntrustedFileError(f"the file has {whole} bytes and ends within its header")
        if length > LARGEST_HEADER:
            raise UntrustedFileError(f"its header has more than {LARGEST_HEADER / 1e6:g} MB")
        content = stream.read(length)
    parts = parse_json(content, dict[str, msgspec.Raw], "its header")
    if len(parts) > MOST_TENSORS:
        raise UntrustedFileError(f"it has more than {MOST_TENSORS} tensors")
    about = parts.pop(METADATA, None)
    said = bytes(about or b"null")
    metadata = {} if said == b"null" else parse_json(said, dict[str, str], METADATA)
    tensors = {name: _stored(name, part) for name, part in parts.items()}
    _check_places(tensors, whole - 8 - length)
    return Header(metadata, tensors, 8 + length)


def _stored(name: str, part: msgspec.Raw) -> Stored:
    if len(name) > LONGEST_NAME or CONTROL.search(name):
        raise UntrustedFileError(f"it has a tensor of an impossible name: {shortened(name)}")
    stored = parse_json(bytes(part), Stored, name[:LONGEST])
    if stored.dtype not in BITS:
        unknown = shortened(stored.dtype)
        raise UntrustedFileError(f"{shortened(name)}: has numbers of an unknown type, {unknown}")
    start, stop = stored.data_offsets
    if stored.numbers * BITS[stored.dtype] != 8 * (stop - start):
        raise UntrustedFileError(f"{shortened(name)}: its shape is not that of its bytes")
    return stored


def _check_places(tensors: dict[str, Stored], whole: int) -> None:
    """The tensors' bytes follow one another, from the end of the header to that of the file."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        start, stop = tensor.data_offsets
        if start != end:
            raise UntrustedFileError(
                f"{shortened(name)}: its bytes do not follow those of the one before"
            )
        end = stop
    if end != whole:
        raise UntrustedFileError(f"its tensors have {end} bytes, the file has {whole}")
