"""The scan of an image's header finds what the decoder finds, despite stray bytes."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from train.data.images import headers
from train.data.images.headers import header_excess
from train.data.images.image import DataError, decode_image

SIDE = 2000  # pixels


def jpeg(side: int = SIDE, **options: object) -> bytes:
    output = io.BytesIO()
    Image.new("L", (side, side), 128).save(output, "JPEG", **options)
    return output.getvalue()


def with_scans(count: int = 3000) -> bytes:
    """Returns a progressive JPEG with this many additional empty scans."""
    content = jpeg(progressive=True)
    component = content[content.find(b"\xff\xc2") + 10]
    scan = bytes([0xFF, 0xDA, 0, 8, 1, component, 0, 1, 1, 0])
    return content[:-2] + scan * count + content[-2:]


def insert_after_first_segment(content: bytes, stray: bytes) -> bytes:
    """Inserts bytes after the first segment of a JPEG."""
    end = 4 + int.from_bytes(content[4:6], "big")
    return content[:end] + stray + content[end:]


def frame_of(side: int) -> bytes:
    """Returns the frame header (SOF) of a JPEG, which has its size."""
    content = jpeg(side, progressive=True)
    start = content.find(b"\xff\xc2")
    return content[start : start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")]


def with_frames(before: bytes, after: bytes) -> bytes:
    frame = frame_of(SIDE)
    return with_scans().replace(frame, before + frame + after, 1)


STRAY = [
    b"\0",
    b"abc" * 30,
    b"\xff" * 30,
    b"\xff\0" * 30,
    b"\xff\0\xff",
    b"a\xff\xff\0\0",
    b"\xff\xd0",
]


@pytest.mark.parametrize("stray", STRAY)
def test_scans_are_counted_after_stray_bytes(stray: bytes) -> None:
    assert "scans" in header_excess(io.BytesIO(insert_after_first_segment(with_scans(), stray)))


@pytest.mark.parametrize("stray", STRAY)
def test_image_with_stray_bytes_is_decoded(tmp_path: Path, stray: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(insert_after_first_segment(jpeg(64, progressive=True), stray))
    assert decode_image(tmp_path / "a.jpg").image.size == (64, 64)


def test_the_largest_frame_size_counts() -> None:
    for before, after in ((frame_of(8), b""), (b"", frame_of(8))):
        assert "scans" in header_excess(io.BytesIO(with_frames(before, after)))


def test_scans_are_counted_across_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for block in (7, 64, 1000):
        monkeypatch.setattr(headers, "BLOCK", block)
        assert "has 3006 scans" in header_excess(io.BytesIO(with_scans()))


def test_jpeg_without_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(with_scans().replace(frame_of(SIDE), b""))
    with pytest.raises(DataError, match=r"a\.jpg: it does not say its size"):
        decode_image(tmp_path / "a.jpg")


def test_mpo_file_is_decoded_and_its_tags_are_bounded(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (64, 64), color) for color in ("white", "red"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert decode_image(tmp_path / "a.jpg").image.size == (64, 64)
    tags = b"".join(struct.pack("<HHII", 20_000 + n, 7, 60_000, 0) for n in range(5400))
    index = b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", 5400) + tags
    segment = b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index
    assert "tags" in header_excess(io.BytesIO(insert_after_first_segment(jpeg(64), segment)))


def bmp(width: int, height: int, data: bytes) -> bytes:
    """Returns a BMP of 256 colors with run-length encoding."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + head + bytes(1024) + data


def test_run_length_encoding_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(bmp(8, 8, b"\x08\1\0\0" * 8 + b"\0\1"))
    assert decode_image(tmp_path / "a.bmp").image.size == (8, 8)
    for large in (bmp(4000, 4000, bytes(11_000_000)), bmp(2**30, -9, b"\1\1\0\0")):
        assert "in runs" in header_excess(io.BytesIO(large))
        assert "in runs" in header_excess(io.BytesIO(large[14:])), (
            "the same without a file header (DIB)"
        )


def test_data_besides_pixels_is_bounded(tmp_path: Path) -> None:
    output = io.BytesIO()
    Image.new("RGB", (8, 8)).save(output, "PNG")
    chunk = struct.pack(">I4s", 20_000_000, b"prVt") + bytes(20_000_004)
    content = output.getvalue()
    assert header_excess(io.BytesIO(content[:33] + chunk + content[33:])) == ""
    assert "beside" in header_excess(io.BytesIO(content[:33] + chunk * 2 + content[33:]))


def test_invalid_tags_print_no_warnings(tmp_path: Path) -> None:
    tags = b"".join(struct.pack("<HHII", 20_000 + n, 7, 90_000, 24_000) for n in range(2000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2000) + tags + bytes(4)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", exif=exif)
    code = (
        "import sys; from pathlib import Path; from train.data.image_checks import examine; "
        "print(examine(Path(sys.argv[1])).size)"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.jpg")],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert (process.stdout, process.stderr) == ("(64, 64)\n", "")
