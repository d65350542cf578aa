"""Untrusted image files: bounded memory and time, no other program, errors in one line."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data.image_checks import examine
from train.data.images.image import DataError, decode_image
from train.data.images.rgb import STRIP

GIGABYTE = 1_000_000_000
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\nshowpage\n%%EOF\n"
# runs in its own process: prints the size or the error, and the bytes used above the imports
MEASURING_SCRIPT = """
import resource, sys
from pathlib import Path
from train.data.image_checks import examine
from train.data.images.image import DataError
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = used()
try:
    print(examine(Path(sys.argv[1])).size, used() - before)
except DataError as error:
    print(error, used() - before)
"""


def examine_in_process(file: Path) -> tuple[str, int]:
    """Returns the size of an image or the error line, and the bytes of memory used."""
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", MEASURING_SCRIPT, str(file)],
                          capture_output=True, text=True, check=True, timeout=100)  # fmt: skip
    result, _, used = process.stdout.strip().rpartition(" ")
    assert "\n" not in result
    return result, int(used)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, rows: bytes, extra: bytes = b"", bits: int = 8, color: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SMALL = zlib.compress(bytes(25 * 8))  # of 8 x 8 pixels


def deflate_zeros(size: int) -> bytes:
    """Returns this many zero bytes, deflated."""
    compressor = zlib.compressobj(9)
    return (
        b"".join(compressor.compress(bytes(2**20)) for _ in range(-(-size // 2**20)))
        + compressor.flush()
    )


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table + bytes(4) + data


def tiled_tiff(side: int, data: bytes) -> bytes:
    """Returns a TIFF of 8 x 8 pixels in one tile with a larger side."""
    offset = 8 + 2 + 12 * 9 + 4
    return tiff((256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
                (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, offset),
                (325, 4, 1, len(data)), data=data)  # fmt: skip


def jpeg(**options: object) -> bytes:
    output = io.BytesIO()
    Image.new("L", (64, 64), 90).save(output, "JPEG", **options)
    return output.getvalue()


def jpeg_with_many_scans() -> bytes:
    output = io.BytesIO()
    Image.new("L", (9000, 9000), 128).save(output, "JPEG", progressive=True)
    content = output.getvalue()
    last = content[content.rfind(b"\xff\xc4", 0, content.rfind(b"\xff\xda")) : -2]
    return content[:-2] + last * (1_000_000 // len(last)) + b"\xff\xd9"


def exif(entries: int, size: int, order: str = ">") -> bytes:
    """Returns an EXIF block in which the data of each entry is the whole block."""
    table = b"".join(struct.pack(">HHII", number + 1, 7, size, 0) for number in range(entries))
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", entries) + table + bytes(8)


def webp() -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (16, 16)).save(output, "WEBP", exif=exif(40_000, 480_000))
    return output.getvalue()


GIF = b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x80\0\0" + bytes(6)
FRAME = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "16bit.png": lambda: png(13_300, deflate_zeros(13_300 * 26_601), bits=16, color=0),
    "16bit_alpha.png": lambda: png(13_000, deflate_zeros(13_000 * 104_001), bits=16, color=6),
    "claimed.png": lambda: png(60_000, SMALL),
    "claimed.bmp": lambda: b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    "pixels.png": lambda: png(8, deflate_zeros(GIGABYTE // 2)),
    "text.png": lambda: png(8, SMALL, chunk(b"zTXt", b"k\0\0" + deflate_zeros(GIGABYTE // 5))),
    "profile.png": lambda: png(8, SMALL, chunk(b"iCCP", b"k\0\0" + deflate_zeros(GIGABYTE // 5))),
    "chunks.png": lambda: png(8, SMALL, chunk(b"teXt", b"") * 3_000_000),
    "exif.png": lambda: png(8, SMALL, chunk(b"eXIf", exif(40_000, 480_000))),
    "exif.webp": webp,
    "frames.gif": lambda: GIF + FRAME * 2_000_000 + b";",
    "comment.gif": lambda: GIF + b"!\xfe" + b"\1a" * 2_000_000 + b"\0" + FRAME + b";",
    "zeros.gif": lambda: GIF + bytes(50_000_000),
    "large_frame.gif": lambda: GIF + b"\x2c" + struct.pack("<HHHH", 0, 0, 65_535, 65_535)
    + b"\0\x02\x02\x44\x01\0;",
    "tile.tif": lambda: tiled_tiff(40_000, deflate_zeros(1_600_000_000)),
    "tags.tif": lambda: tiff(*((1000 + n, 7, 700_000, 0) for n in range(60_000))),
    "numbers.tif": lambda: tiff((273, 4, 20_000_000, 26), data=bytes(80_000_000)),
    "fill.jpg": lambda: jpeg()[:2] + b"\xff" * 50_000_000 + jpeg()[2:],
    "comments.jpg": lambda: jpeg()[:2] + b"\xff\xfe\0\3a" * 5_000_000 + jpeg()[2:],
    "exif.jpg": lambda: jpeg(exif=b"Exif\0\0" + exif(5000, 60_000)),
    "exifs.jpg": lambda: jpeg()[:2] + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)) * 1000
    + jpeg()[2:],
    "scans.jpg": jpeg_with_many_scans,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_image_takes_bounded_memory_and_time(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(HOSTILE[name]())
    start = time.monotonic()
    result, used = examine_in_process(file)
    assert time.monotonic() - start < 40, (
        "with the start of the process; other tests run at the same time"
    )
    assert used < 1.5 * GIGABYTE
    assert result.startswith("(") or result.startswith(f"{file}: ")


def test_error_of_a_too_large_image_has_its_size(tmp_path: Path) -> None:
    for side, message in (
        (60_000, "3600 megapixels"),
        (13_370, "13370x13370 pixels: 179 megapixels"),
    ):
        (tmp_path / "a.png").write_bytes(png(side, SMALL))
        with pytest.raises(DataError, match=message) as error:
            decode_image(tmp_path / "a.png")
        assert "a.png" in str(error.value)


def test_image_of_50_megapixels_is_decoded(tmp_path: Path) -> None:
    shade = (np.add.outer(np.arange(5773) % 251, np.arange(8660) % 241) % 256).astype(np.uint8)
    photograph = Image.fromarray(np.dstack([shade, shade[::-1], shade[:, ::-1]]))
    photograph.save(tmp_path / "a.jpg", quality=60, exif=Image.Exif())
    result, used = examine_in_process(tmp_path / "a.jpg")
    assert (result, used < 1.5 * GIGABYTE) == ("(8660, 5773)", True)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert decode_image(tmp_path / "a.jpg").image.tobytes() == opened.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_conversion_in_strips_equals_that_of_the_whole_image(tmp_path: Path, mode: str) -> None:
    side = int((3 * STRIP) ** 0.5)  # several strips
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 4), np.uint8)
    image = Image.fromarray(noise, "RGBA")
    if mode in ("I;16", "I", "F"):
        wide = noise[..., 0].astype(np.uint16) * 256 + noise[..., 1]
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((wide / (65_535 if mode == "F" else 1)).astype(kind))
        factor = 255 if mode == "F" else 1 / 257
        values = np.asarray(image, np.float64)
        values = values * factor if mode == "F" else values / 257
        expected = Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    else:
        image = image.convert(mode)
        expected = image.convert("RGB")
        if image.has_transparency_data:
            expected = Image.new("RGBA", image.size, (255, 255, 255))
            expected.alpha_composite(image.convert("RGBA"))
            expected = expected.convert("RGB")
    file = tmp_path / f"a.{'png' if mode in ('1', 'L', 'LA', 'P', 'RGBA', 'I;16') else 'tif'}"
    image.save(file)
    assert decode_image(file).image.tobytes() == expected.tobytes()
    assert decode_image(file).has_transparency == image.has_transparency_data


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.gif", "a.webp", "a.bmp"])
def test_no_other_program_is_started(tmp_path: Path, name: str) -> None:
    binary = b"\xc5\xd0\xd3\xc6" + struct.pack("<III", 32, len(EPS), 0) + bytes(16) + EPS
    for content in (EPS, b"\n" + EPS, binary, b"%PDF-1.4\n", b"<svg/>", b"P6 9 9 255\n"):
        (tmp_path / name).write_bytes(content)
        code = f"""
import sys
from pathlib import Path
from train.data.image_checks import examine
started = []
kinds = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect")
sys.addaudithook(lambda event, _: started.append(event) if event.startswith(kinds) else None)
try:
    examine(Path({str(tmp_path / name)!r}))
except Exception as error:
    print(type(error).__name__, started)
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=True, timeout=60)  # fmt: skip
        assert process.stdout == "DataError []\n"


@pytest.mark.parametrize(
    "kind", ["pipe", "device", "random", "socket", "loop", "folder", "missing"]
)
def test_special_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # paths of sockets must be short
        socket.socket(socket.AF_UNIX).bind("a.png")
    else:
        targets = {"device": "/dev/zero", "random": "/dev/urandom", "loop": "a.png"}
        file.symlink_to(targets.get(kind, "nowhere"))
    with pytest.raises(DataError, match=r"a\.png: ") as error:
        examine(file)
    assert "\n" not in str(error.value)


def test_file_of_20_gigabytes_is_refused_by_size(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        with (tmp_path / name).open("wb") as stream:
            stream.write(png(8, SMALL))
            stream.truncate(20 * GIGABYTE)
        with pytest.raises(DataError, match="is larger than 400 MB"):
            examine(tmp_path / name)
