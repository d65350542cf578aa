"""Mutates binary files: safetensors, images and resume states."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

from bench.fuzzing import trees
from bench.fuzzing.values import MODULE, OUTSIDE, hostile_value

PNG = b"\x89PNG\r\n\x1a\n"
EXTREME_NUMBERS = (0, 1, 255, 2**16, 2**24, 2**31 - 1, 2**32 - 1)
CHUNK_TAGS = (
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"iCCP",
    b"gAMA",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"eXIf",
)
# pickles that run code when loaded (import a module, write a file, start a program), or are invalid
HOSTILE_PICKLES = (
    f"c{MODULE}\nAdam\n.".encode(),
    f"cbuiltins\nopen\n(S'{OUTSIDE}/pwned'\nS'w'\ntR.".encode(),
    b"cos\nsystem\n(S'touch pwned'\ntR.",
    f"\x80\x04c{MODULE}\nAdam\n)\x81.".encode("latin-1"),
    b"\x80\x02cbuiltins\neval\n(S'1+1'\ntR.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(tR.",
    b"\x80\x05" + b"(" * 5000 + b"t" * 5000 + b".",
    b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    b"(lp0\nh\x00a.",
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n{ } loop\nshowpage\n"
FILE_HEADERS = (
    b"", PNG, b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a", b"II*\0", b"BM",
    b"PK\x03\x04", b"\x80\x04", EPS, b"MM\0*", b"{", b"SQLite format 3\0", b"%PDF-1.4",
)  # fmt: skip
METADATA_KEYS = (
    "ss_epoch", "ss_steps", "training_info", "lora_adapter_metadata", "ss_network_args",
    "ss_resolution", "ss_network_alpha", "ss_network_dim",
)  # fmt: skip
TENSOR_NAMES = (
    "", "../../x", "#.weight", "#.alpha", "bundle_emb.x.string_to_param.*", "#\x1b[31m", "#.scale",
    "\0", "a" * 5000,
)  # fmt: skip
DTYPES = (
    "F64", "F32", "F16", "BF16", "I8", "I64", "U16", "BOOL", "F8_E5M2", "F8_E4M3", "F4", "I128", "",
    5, None,
)  # fmt: skip
SHAPES: tuple[Any, ...] = (
    [], [0], [1], [-1], [2**63], [2**31, 2**31], [1.5], "x", None, [1] * 70, [0, 2**40],
    [4, 4, 4, 4, 4],
)  # fmt: skip
GLOBALS = (b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"torch\nFloatStorage")
HOSTILE_GLOBALS = (
    f"{MODULE}\nAdam".encode(), b"os\nsystem", b"builtins\neval", b"torch\nload",
    b"torch\nLongStorage",
)  # fmt: skip
STATE_KEYS = (
    b"epoch", b"shown", b"order", b"losses", b"skipped", b"adapter", b"random", b"remedies",
    b"config", b"lr", b"step", b"kind", b"last", b"param_groups", b"exp_avg", b"betas",
)  # fmt: skip
PICKLE_VALUES = (
    b"K\xff", b"K\x00", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"N", b"\x88", b"]", b"}",
    b"G\x7f\xf8\0\0\0\0\0\0", b"G\x7f\xf0\0\0\0\0\0\0", b"X\x01\0\0\0x",
)  # fmt: skip


Chunk = tuple[bytes, bytes]  # tag and content


def corrupt(content: bytes, random: Random) -> bytes:
    """Flips bits, removes, inserts or copies bytes, truncates, and writes extreme integers."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if not data:
            return bytes(random.randrange(256) for _ in range(64))
        place, pick = random.randrange(len(data)), random.random()
        if random.random() < 0.5:  # headers, where most errors happen, are near the beginning
            place = random.randrange(min(len(data), 512))
        size = random.choice((1, 4, 16, 300))
        if pick < 0.35:
            data[place] ^= 1 << random.randrange(8)
        elif pick < 0.5:
            data[place : place + size] = bytes(random.randrange(256) for _ in range(size))
        elif pick < 0.6:
            del data[place : place + size]
        elif pick < 0.7:
            data[place:place] = data[place : place + size]
        elif pick < 0.8:
            del data[place:]
        elif pick < 0.95:
            form = random.choice(("<I", ">I", "<Q", ">Q"))
            number = random.choice((*EXTREME_NUMBERS, 2**40, 2**60)) % 2 ** (
                8 * struct.calcsize(form)
            )
            data[place : place + struct.calcsize(form)] = struct.pack(form, number)
        else:
            data[place : place + size] = bytes(size)
    return bytes(data)


def random_bytes(random: Random) -> bytes:
    """Returns random bytes, which may begin with the header of a file format."""
    head = random.choice(FILE_HEADERS)
    return head + random.randbytes(random.choice((0, 7, 200, 5000)))


def mutate_safetensors(content: bytes, random: Random, priority_keys: tuple[str, ...]) -> bytes:
    """Mutates the header or its length and keeps the tensors; or corrupts the bytes."""
    if random.random() < 0.2:
        return corrupt(content, random)
    end = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:end]), content[end:]
    metadata = header.get("__metadata__", {})
    pick = random.random()
    if pick < 0.55 and metadata:
        _mutate_metadata(metadata, random, priority_keys)
    elif pick < 0.9:
        names = [name for name in header if name != "__metadata__"]
        _mutate_tensor(header, random.choice(names), random, len(body))
    else:
        header = trees.mutate(header, random)
    head = json.dumps(header).encode()
    if random.random() < 0.05:
        head = (
            b"[" * 100_000
            if random.random() < 0.5
            else head.replace(b"{", b'{"a": {}, "a": {},', 1)
        )
    length = (
        len(head)
        if random.random() < 0.95
        else random.choice((0, 7, 2**27, 2**60, len(head) - 1, 2**63))
    )
    return length.to_bytes(8, "little") + head + body


def _mutate_metadata(
    metadata: dict[str, object], random: Random, priority_keys: tuple[str, ...]
) -> None:
    """Mutates the metadata of a LoRA file, most often its settings."""
    if "lorasweep_config" in metadata and random.random() < 0.6:
        metadata["lorasweep_config"] = trees.mutate_json(
            str(metadata["lorasweep_config"]), random, priority_keys
        )
        return
    key = random.choice([*metadata, *METADATA_KEYS])
    if random.random() < 0.1:
        metadata.pop(key, None)
    else:
        value = hostile_value(random)
        metadata[key] = (
            value if random.random() < 0.1 else value if isinstance(value, str) else _to_json(value)
        )


def _to_json(value: object) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 5000


def _mutate_tensor(
    header: dict[str, dict[str, object]], name: str, random: Random, size: int
) -> None:
    entry, pick = header[name], random.random()
    if pick < 0.15:
        del header[name]
    elif pick < 0.35:
        new = random.choice((*TENSOR_NAMES, f"{name}x", name.upper(), name.replace("lora", "hada")))
        new = new.replace("#", name).replace("down", random.choice(("down", "up")))
        header[new] = header.pop(name)
    elif pick < 0.6:
        entry["dtype"] = random.choice(DTYPES)
    elif pick < 0.8:
        entry["shape"] = random.choice(SHAPES)
    else:
        ends = (0, 4, 8, -1, 2**60, size, size + 8)
        count = random.choice((1, 2, 2, 2))
        entry["data_offsets"] = [random.choice(ends) for _ in range(count)]


def mutate_png(content: bytes, random: Random, priority_keys: tuple[str, ...] = ()) -> bytes:
    """Changes, removes, duplicates and inserts chunks of a PNG, with correct checksums."""
    if random.random() < 0.25:
        return corrupt(content, random)
    chunks = list(_parse_chunks(content))
    for _ in range(random.choice((1, 1, 2))):
        row = random.randrange(len(chunks))
        text_chunks = [i for i, (tag, _) in enumerate(chunks) if tag in (b"tEXt", b"iTXt")]
        if text_chunks and random.random() < 0.5:
            row = text_chunks[0]
        tag, data = chunks[row]
        pick = random.random()
        if row in text_chunks and pick < 0.8:
            name, _, text = data.partition(b"\0")
            changed = trees.mutate_json(text.decode("latin-1"), random, ())
            chunks[row] = (tag, name + b"\0" + changed.encode("latin-1", "replace"))
        elif tag == b"IHDR" and pick < 0.7:
            width, height = (
                random.choice((0, 1, 36, 40, 13_300, 60_000, 2**31 - 1)) for _ in range(2)
            )
            kind = random.choice(
                (data[8:10], bytes([16, 0]), bytes([16, 6]), bytes([1, 3]), bytes([3, 9]))
            )
            chunks[row] = (tag, struct.pack(">II", width, height) + kind + data[10:])
        elif pick < 0.3:
            chunks[row] = (tag, corrupt(data, random))
        elif pick < 0.5:
            chunks.insert(row, chunks[random.randrange(len(chunks))])
        elif pick < 0.6:
            chunks.pop(row)
            chunks = chunks or [(b"IEND", b"")]
        elif pick < 0.8:
            bomb = b"cells\0\0" + zlib.compress(b"[" * 20_000_000, 9)
            packed = bomb[len(b"cells\0\0") :]
            texts: list[Chunk] = [(b"zTXt", bomb), (b"iTXt", b"cells\0\1\0\0\0" + packed)]
            other: list[Chunk] = [(b"iCCP", b"x\0\0" + packed), (b"eXIf", b"II*\0" + b"\xff" * 40)]
            chunks.insert(1, random.choice(texts + other))
        else:
            chunks[row] = (random.choice(CHUNK_TAGS), data)
    return PNG + b"".join(_make_chunk(tag, data) for tag, data in chunks)


def _parse_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(PNG)
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        place += size + 12


def _make_chunk(tag: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def wide_png(side: int) -> bytes:
    """Returns a black 16-bit image: a few hundred kB as a file, hundreds of MB when decoded."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 2 * side)
    body = b"".join(packer.compress(row * 64) for _ in range(side // 64)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side // 64 * 64, 16, 0, 0, 0, 0)
    return (
        PNG + _make_chunk(b"IHDR", header) + _make_chunk(b"IDAT", body) + _make_chunk(b"IEND", b"")
    )


def mutate_state(content: bytes, random: Random) -> bytes:
    """Mutates the pickle of a resume state, removes or corrupts an entry, or replaces the file."""
    pick = random.random()
    if pick < 0.2:
        return corrupt(content, random)
    if pick < 0.3:
        return random.choice(HOSTILE_PICKLES)
    output, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    names = source.namelist()
    chosen = (
        next(n for n in names if n.endswith("data.pkl"))
        if random.random() < 0.7
        else random.choice(names)
    )
    with zipfile.ZipFile(output, "w") as archive:
        for name in names:
            data = source.read(name)
            if name == chosen:
                if name.endswith(".pkl"):
                    data = _mutate_pickle(data, random)
                elif random.random() < 0.3:
                    continue
                else:
                    data = corrupt(data, random) if data else b"x"
            archive.writestr(zipfile.ZipInfo(name), data)
    return output.getvalue()


def _mutate_pickle(data: bytes, random: Random) -> bytes:
    """Changes a value, a class or the instructions of a pickle."""
    pick = random.random()
    if pick < 0.2:
        return random.choice(HOSTILE_PICKLES)
    if pick < 0.4:
        return data.replace(random.choice(GLOBALS), random.choice(HOSTILE_GLOBALS))
    if pick < 0.7:  # a key, replaced by one of the same length so that the rest stays valid
        word = random.choice(STATE_KEYS)
        return data.replace(
            word, bytes([random.randrange(97, 123)]) * len(word), random.choice((1, -1))
        )
    value = random.choice(PICKLE_VALUES)
    places = [i for i in range(len(data) - 2) if data[i : i + 1] == b"K"]
    place = random.choice(places)
    return data[:place] + value + data[place + 2 :]
