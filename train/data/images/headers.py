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

MOST_SEGMENTS, MOST_STRAY = 512, 100_000  # of a JPEG before its pixels; bytes between two of them
MOST_CHUNKS = 200_000  # of a PNG; those of its pixels have some kilobytes each
MOST_EXTENSIONS, MOST_BLOCKS = 5_000, 1_000_000  # of a GIF: blocks of extensions, and of frames
MOST_SCANNED = 5e9  # pixels of all scans of a JPEG together
MOST_TAGS = 100_000_000  # bytes in the tags of a TIFF or an EXIF block
MOST_NUMBERS = 500_000  # in such tags
MOST_EXIF, LONGEST_EXIF = 100, 4_000_000  # possible EXIF blocks; bytes of a JPEG's
MOST_OTHER = 32_000_000  # bytes of a PNG besides its pixels, which are kept in memory
MOST_RUNS, MOST_IN_RUNS = 10_000_000, 40_000_000  # bytes of a compressed BMP; its pixels
DIB, RUNS = (12, 40, 52, 56, 64, 108, 124), (1, 2)  # header sizes of a BMP; compression methods
EXIF = b"Exif\0\0"
VIEWS = b"MPF\0"  # before the tags with the positions of the other images in the file
START_OF_SCAN = 0xDA
FRAMES = {*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}  # markers before the image size
# a scan's marker, its length, and its number of components, as decoders require them
SCAN = re.compile(rb"\xff\xda\x00(?:\x06\x00|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
SCAN_LENGTH = 5
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # bytes of a TIFF's types  # fmt: skip
TEXTS = (1, 2, 6, 7)  # types that are kept as bytes
POINTERS = (34665, 34853, 40965)  # tags that point to more tags: EXIF, GPS, interoperability
PIXELS = (b"IDAT", b"fdAT")  # chunks that are read in parts
BLOCK = 2**20  # bytes that are read at a time


def header_excess(stream: BinaryIO, chunks: int = MOST_CHUNKS) -> str:
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
        if _held(stream, size, start, first, (order + count, order + entry)):
            return "has too much data in its tags"
    return ""


def _held(stream: BinaryIO, size: int, start: int, first: int, forms: tuple[str, str]) -> bool:
    """Whether the tags, including those that they point to, hold too much data.

    Args:
        first: offset of the first directory of tags.
        forms: struct formats of the number of tags, and of a tag.
    """
    length, whole = struct.calcsize(forms[1]), size - start
    waiting, seen, held, numbers = [first], set[int](), 0, 0
    while waiting:
        place = waiting.pop()
        if place in seen or place >= whole:
            continue
        seen.add(place)
        stream.seek(start + place)
        (entries,) = struct.unpack(forms[0], stream.read(struct.calcsize(forms[0])))
        table = stream.read(min(entries, 2**16) * length)
        for tag, kind, values, data in struct.iter_unpack(
            forms[1], table[: len(table) // length * length]
        ):
            taken = values * SIZES.get(kind, 0)
            held += min(taken, max(0, whole - data)) if taken > 4 else 0
            numbers += 0 if kind in TEXTS or taken > whole else values
            if tag in POINTERS:
                waiting.append(data)
        if held > min(whole + BLOCK, MOST_TAGS) or numbers > MOST_NUMBERS:
            return True
    return False


def _jpeg(stream: BinaryIO) -> str:
    """Walks over the segments as Pillow and libjpeg do, up to the first scan; then counts the
    scans."""
    exif, pixels = [b""], 0
    stream.seek(2)
    for _ in range(MOST_SEGMENTS):
        second = _marker(stream)
        if second < 0:
            return f"has more than {MOST_STRAY} stray bytes in its header"
        if second == START_OF_SCAN:
            break
        if MARKER.get(0xFF00 | second, ("", "", None))[2] is None:  # has no content
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        content = stream.read(max(0, length - 2))
        if content.startswith(EXIF):
            exif.append(content.removeprefix(EXIF))
        if content.startswith(VIEWS) and exif_excess(content.removeprefix(VIEWS)):
            return "has too much data in its tags"
        if second in FRAMES:
            height, width = struct.unpack_from(">HH", content, 1)
            pixels = max(pixels, height * width)
    else:
        return f"has more than {MOST_SEGMENTS} segments in its header"
    if not pixels:
        return "does not say its size before its pixels"
    scans = _scans(stream)
    if scans * pixels > MOST_SCANNED:
        return f"has {scans} scans, too many to be decoded"
    block = b"".join(exif)
    return "has too much data in its tags" if len(block) > LONGEST_EXIF else exif_excess(block)


def _marker(stream: BinaryIO) -> int:
    """The second byte of the next marker; -1 if too many stray bytes precede it. Like decoders, it
    skips any bytes but FF, repeated FF, and FF 00.

    Raises:
        IndexError: there is none.
    """
    marked = False
    for _ in range(MOST_STRAY):
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


def _png(stream: BinaryIO, most: int) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(8)
    other = 0
    for _ in range(most):
        length, kind = struct.unpack(">I4s", stream.read(8))
        if kind == b"IEND":
            return ""
        other += 0 if kind in PIXELS else min(length, size)  # a broken header may exceed the size
        if other > MOST_OTHER:
            return f"has more than {MOST_OTHER / 1e6:g} MB beside its pixels"
        stream.seek(length + 4, os.SEEK_CUR)
    return f"has more than {most} chunks"


def _gif(stream: BinaryIO) -> str:
    """Walks over the blocks up to the second frame, which Pillow searches for."""
    _skip_colors(stream, stream.read(13)[10])
    extensions = blocks = frames = 0
    while frames < 2 and (kind := stream.read(1)) not in (b"", b";"):
        extensions += 1
        if kind == b"!":
            stream.seek(1, os.SEEK_CUR)
            extensions += _skip_blocks(stream, MOST_EXTENSIONS)
        elif kind == b",":
            frames += 1
            _skip_colors(stream, stream.read(9)[8])
            stream.seek(1, os.SEEK_CUR)
            blocks += _skip_blocks(stream, MOST_BLOCKS)
        if extensions > MOST_EXTENSIONS or blocks > MOST_BLOCKS:
            return "has too many blocks"
    return ""


def _skip_colors(stream: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        stream.seek(3 << ((flags & 7) + 1), os.SEEK_CUR)


def _skip_blocks(stream: BinaryIO, most: int) -> int:
    """Skips blocks up to an empty one, or up to `most` + 1; returns how many there were."""
    for count in range(most + 1):
        if not (length := stream.read(1)) or not length[0]:
            return count
        stream.seek(length[0], os.SEEK_CUR)
    return most + 1


def _bmp(stream: BinaryIO, size: int, start: int) -> str:
    """Checks a BMP: Pillow decodes runs of equal pixels in Python, one by one."""
    stream.seek(start)
    head = stream.read(20)
    width, height = (abs(side) for side in struct.unpack_from("<ii", head, 4))
    (method,) = struct.unpack_from("<I", head, 16)
    if method in RUNS and (size > MOST_RUNS or width * height > MOST_IN_RUNS):
        return f"is compressed in runs, and has more than {MOST_RUNS / 1e6:g} MB or " \
            f"{MOST_IN_RUNS / 1e6:g} megapixels"  # fmt: skip
    return ""


def _avif(stream: BinaryIO, size: int) -> str:
    """Checks an AVIF's EXIF block, which may be anywhere and begins like a TIFF."""
    content, candidates = stream.read(), 0
    for mark in PREFIXES:
        place = content.find(mark)
        while place >= 0:
            candidates += 1
            if candidates > MOST_EXIF:
                return "has too many EXIF blocks"
            try:
                if words := _tags(stream, size, place):
                    return words
            except struct.error:  # not an EXIF block
                pass
            place = content.find(mark, place + 1)
    return ""
