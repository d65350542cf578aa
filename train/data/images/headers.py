"""Walks over the headers of image files before a decoder sees them.

Pillow reads a header in Python, piece by piece, and keeps or copies the content of the pieces.
Without limits, a small file with very many pieces, or with pieces that all point to the same data,
takes hours or all of the memory.
"""

from __future__ import annotations

import io
import os
import re
import struct
from typing import BinaryIO

from PIL.JpegImagePlugin import MARKER
from PIL.TiffImagePlugin import PREFIXES

MAX_SEGMENTS, MAX_STRAY_BYTES = (
    512,
    100_000,
)  # of a JPEG before its pixels; bytes between two of them
MAX_CHUNKS = 200_000  # of a PNG; those of its pixels have some kilobytes each
MAX_EXTENSIONS, MAX_BLOCKS = 5_000, 1_000_000  # of a GIF: blocks of extensions, and of frames
MAX_SCANNED_PIXELS = 5e9  # pixels of all scans of a JPEG together
MAX_TAG_BYTES = 100_000_000  # bytes in the tags of a TIFF or an EXIF block
MAX_TAG_NUMBERS = 500_000  # in such tags
MAX_EXIF_BLOCKS, MAX_EXIF_BYTES = 100, 4_000_000  # possible EXIF blocks; bytes of a JPEG's
MAX_OTHER_BYTES = 32_000_000  # bytes of a PNG besides its pixels, which are kept in memory
MAX_RLE_BYTES, MAX_RLE_PIXELS = 10_000_000, 40_000_000  # bytes of a compressed BMP; its pixels
DIB, RLE_METHODS = (
    (12, 40, 52, 56, 64, 108, 124),
    (1, 2),
)  # header sizes of a BMP; compression methods
EXIF = b"Exif\0\0"
MPF = b"MPF\0"  # before the tags with the positions of the other images in the file
START_OF_SCAN = 0xDA
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}  # markers before the image size
# a scan's marker, its length, and its number of components, as decoders require them
SCAN = re.compile(rb"\xff\xda\x00(?:\x06\x00|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
SCAN_LENGTH = 5
TIFF_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # bytes of a TIFF's types  # fmt: skip
BYTE_TYPES = (1, 2, 6, 7)  # types that are kept as bytes
POINTER_TAGS = (34665, 34853, 40965)  # tags that point to more tags: EXIF, GPS, interoperability
PIXEL_CHUNKS = (b"IDAT", b"fdAT")  # chunks that are read in parts
BLOCK = 2**20  # bytes that are read at a time


def header_excess(stream: BinaryIO, chunks: int = MAX_CHUNKS) -> str:
    """Why an image file exceeds the limits, in words; empty if it does not.

    Anything that is not an image header is left to the decoder. The stream is rewound.

    Args:
        chunks: the maximum for a PNG.
    """
    head = stream.read(12)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        if head.startswith(b"\xff\xd8"):
            return _jpeg(stream)
        if head.startswith(b"\x89PNG"):
            return _png(stream, chunks)
        if head.startswith(b"GIF8"):
            return _gif(stream)
        if head[:4] in PREFIXES:
            return _tags(stream, size)
        if head[4:8] == b"ftyp":
            return _avif(stream, size)
        if head.startswith(b"BM") or struct.unpack_from("<I", head)[0] in DIB:
            return _bmp(stream, size, 14 if head.startswith(b"BM") else 0)
        return ""
    except (struct.error, IndexError):  # truncated, which the decoder reports
        return ""
    finally:
        stream.seek(0)


def exif_excess(exif: bytes) -> str:
    """Why an EXIF block exceeds the limits, as in `header_excess`."""
    block = exif.removeprefix(EXIF)
    try:
        return _tags(io.BytesIO(block), len(block))
    except struct.error:
        return ""


def _tags(stream: BinaryIO, size: int, start: int = 0) -> str:
    """Walks over the tags of a TIFF at `start`, in a stream of `size` bytes."""
    stream.seek(start)
    head = stream.read(16)
    order = "<" if head.startswith(b"II") else ">"
    forms = [("I", "H", "HHII"), ("Q", "Q", "HHQQ")]  # the second one is BigTIFF's
    for offset, count, entry in forms if 43 in head[2:4] else forms[:1]:
        width = struct.calcsize(order + offset)
        (first,) = struct.unpack_from(order + offset, head, width)
        if _exceeds_tag_limits(stream, size, start, first, (order + count, order + entry)):
            return "has too much data in its tags"
    return ""


def _exceeds_tag_limits(
    stream: BinaryIO, size: int, start: int, first: int, forms: tuple[str, str]
) -> bool:
    """Whether the tags, including those that they point to, hold too much data.

    Args:
        first: offset of the first directory of tags.
        forms: struct formats of the number of tags, and of a tag.
    """
    length, end = struct.calcsize(forms[1]), size - start
    pending, visited, total_bytes, numbers = [first], set[int](), 0, 0
    while pending:
        offset = pending.pop()
        if offset in visited or offset >= end:
            continue
        visited.add(offset)
        stream.seek(start + offset)
        (entries,) = struct.unpack(forms[0], stream.read(struct.calcsize(forms[0])))
        table = stream.read(min(entries, 2**16) * length)
        for tag, kind, values, data in struct.iter_unpack(
            forms[1], table[: len(table) // length * length]
        ):
            value_bytes = values * TIFF_TYPE_SIZES.get(kind, 0)
            total_bytes += min(value_bytes, max(0, end - data)) if value_bytes > 4 else 0
            numbers += 0 if kind in BYTE_TYPES or value_bytes > end else values
            if tag in POINTER_TAGS:
                pending.append(data)
        if total_bytes > min(end + BLOCK, MAX_TAG_BYTES) or numbers > MAX_TAG_NUMBERS:
            return True
    return False


def _jpeg(stream: BinaryIO) -> str:
    """Walks over the segments as Pillow and libjpeg do, up to the first scan; then counts the
    scans."""
    exif, pixels = [b""], 0
    stream.seek(2)
    for _ in range(MAX_SEGMENTS):
        second = _marker(stream)
        if second < 0:
            return f"has more than {MAX_STRAY_BYTES} stray bytes in its header"
        if second == START_OF_SCAN:
            break
        if MARKER.get(0xFF00 | second, ("", "", None))[2] is None:  # has no content
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        content = stream.read(max(0, length - 2))
        if content.startswith(EXIF):
            exif.append(content.removeprefix(EXIF))
        if content.startswith(MPF) and exif_excess(content.removeprefix(MPF)):
            return "has too much data in its tags"
        if second in FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", content, 1)
            pixels = max(pixels, height * width)
    else:
        return f"has more than {MAX_SEGMENTS} segments in its header"
    if not pixels:
        return "does not say its size before its pixels"
    scans = _scans(stream)
    if scans * pixels > MAX_SCANNED_PIXELS:
        return f"has {scans} scans, too many to be decoded"
    block = b"".join(exif)
    return "has too much data in its tags" if len(block) > MAX_EXIF_BYTES else exif_excess(block)


def _marker(stream: BinaryIO) -> int:
    """The second byte of the next marker; -1 if too many stray bytes precede it. Like decoders, it
    skips any bytes but FF, repeated FF, and FF 00.

    Raises:
        IndexError: there is none.
    """
    marked = False
    for _ in range(MAX_STRAY_BYTES):
        byte = stream.read(1)[0]
        if marked and byte not in (0, 0xFF):
            return byte
        marked = byte == 0xFF
    return -1


def _scans(stream: BinaryIO) -> int:
    """The number of possible scans in a JPEG, wherever they are; at least one.

    The whole file is searched: what hides a scan here need not hide it from the decoder.
    """
    stream.seek(0)
    scans, rest = 0, b""
    while block := stream.read(BLOCK):
        block = rest + block
        scans += sum(1 for _ in SCAN.finditer(block))
        rest = block[-SCAN_LENGTH + 1 :]  # a scan may continue in the next block
    return max(1, scans)


def _png(stream: BinaryIO, limit: int) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(8)
    other = 0
    for _ in range(limit):
        length, kind = struct.unpack(">I4s", stream.read(8))
        if kind == b"IEND":
            return ""
        other += (
            0 if kind in PIXEL_CHUNKS else min(length, size)
        )  # a broken header may exceed the size
        if other > MAX_OTHER_BYTES:
            return f"has more than {MAX_OTHER_BYTES / 1e6:g} MB beside its pixels"
        stream.seek(length + 4, os.SEEK_CUR)
    return f"has more than {limit} chunks"


def _gif(stream: BinaryIO) -> str:
    """Walks over the blocks up to the second frame, which Pillow searches for."""
    _skip_colors(stream, stream.read(13)[10])
    extensions = blocks = frames = 0
    while frames < 2 and (kind := stream.read(1)) not in (b"", b";"):
        extensions += 1
        if kind == b"!":
            stream.seek(1, os.SEEK_CUR)
            extensions += _skip_blocks(stream, MAX_EXTENSIONS)
        elif kind == b",":
            frames += 1
            _skip_colors(stream, stream.read(9)[8])
            stream.seek(1, os.SEEK_CUR)
            blocks += _skip_blocks(stream, MAX_BLOCKS)
        if extensions > MAX_EXTENSIONS or blocks > MAX_BLOCKS:
            return "has too many blocks"
    return ""


def _skip_colors(stream: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        stream.seek(3 << ((flags & 7) + 1), os.SEEK_CUR)


def _skip_blocks(stream: BinaryIO, limit: int) -> int:
    """Skips blocks up to an empty one, or up to `most` + 1; returns how many there were."""
    for count in range(limit + 1):
        if not (length := stream.read(1)) or not length[0]:
            return count
        stream.seek(length[0], os.SEEK_CUR)
    return limit + 1


def _bmp(stream: BinaryIO, size: int, start: int) -> str:
    """Checks a BMP: Pillow decodes runs of equal pixels in Python, one by one."""
    stream.seek(start)
    head = stream.read(20)
    width, height = (abs(side) for side in struct.unpack_from("<ii", head, 4))
    (method,) = struct.unpack_from("<I", head, 16)
    if method in RLE_METHODS and (size > MAX_RLE_BYTES or width * height > MAX_RLE_PIXELS):
        return f"is compressed in runs, and has more than {MAX_RLE_BYTES / 1e6:g} MB or " \
            f"{MAX_RLE_PIXELS / 1e6:g} megapixels"  # fmt: skip
    return ""


def _avif(stream: BinaryIO, size: int) -> str:
    """Checks an AVIF's EXIF block, which may be anywhere and begins like a TIFF."""
    content, candidates = stream.read(), 0
    for mark in PREFIXES:
        offset = content.find(mark)
        while offset >= 0:
            candidates += 1
            if candidates > MAX_EXIF_BLOCKS:
                return "has too many EXIF blocks"
            try:
                if reason := _tags(stream, size, offset):
                    return reason
            except struct.error:  # not an EXIF block
                pass
            offset = content.find(mark, offset + 1)
    return ""
