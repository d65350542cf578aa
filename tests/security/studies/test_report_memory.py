"""Reports of untrusted studies read bounded parts of large sheets and records."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluate.images import contact_sheet as sheets
from evaluate.images.contact_sheet import (
    CELL,
    CELLS,
    read_cells,
    read_png,
    read_positions,
    read_sheet,
    save_sheet,
)
from sweeper.tracking import trial_record as records
from sweeper.tracking.trial_record import RECORD_FILE, RecordError, load_record, load_records
from train.errors import ConfigError
from train.files.untrusted import UntrustedFileError

CHUNK = struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))


def saved_sheet(file: Path, count: int = 20, side: int = 1000) -> Path:
    page = Image.new("RGB", (side, side), "white")
    page.info[CELLS] = json.dumps([[f"fresh {i}", "words", False, i, i] for i in range(count)])
    save_sheet(page, file)
    return file


def test_cell_positions_are_read_without_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved_sheet(tmp_path / "a.png")

    def load(picture: Image.Image) -> None:
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(sheets, "_in_rgb", load)
    assert [*read_positions(file)] == [f"fresh {i}" for i in range(20)]
    assert read_cells(file, ["fresh 99"]) == {}


def test_only_requested_cells_are_cropped(tmp_path: Path) -> None:
    file = saved_sheet(tmp_path / "a.png")
    assert [*read_cells(file, ["fresh 3", "fresh 99", "fresh 1"])] == ["fresh 3", "fresh 1"]
    assert len(read_cells(file)) == 20
    assert read_cells(file, ["fresh 3"])["fresh 3"].image.size == (CELL, CELL)


def test_limits_of_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved_sheet(tmp_path / "a.png")
    assert len(read_sheet(file)) == 20
    for limit, maximum, words in (
        ("MAX_PIXELS", 999_999, "over .* megapixels"),
        ("MAX_CELLS", 19, "names more images"),
        ("MAX_BYTES", 1000, "is larger than"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sheets, limit, maximum)
            with pytest.raises(UntrustedFileError, match=words):
                read_sheet(file)
            assert read_positions(file) == {}


def test_png_with_too_many_chunks_is_refused(tmp_path: Path) -> None:
    file = saved_sheet(tmp_path / "a.png")
    content = file.read_bytes()
    file.write_bytes(content[:33] + CHUNK * 6000 + content[33:])
    for read in (read_png, read_sheet):
        with pytest.raises(UntrustedFileError, match=r"a\.png: .*more than 5000 chunks"):
            read(file)


def test_largest_sheet_is_within_the_limits() -> None:
    """The sheet of the maximum of `probes.count`."""
    section = sheets.Section("", [sheets.Cell(Image.new("RGB", (8, 8)))] * 4096, 3)
    width = sheets.GAP + sheets.COLUMNS * (CELL + sheets.GAP)
    more = 4 * (section.height // 683)  # training images and incomplete rows
    assert width * (section.height + more) <= sheets.MAX_PIXELS


def test_large_sheet_prints_no_warning(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    torn = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0"))
    (tmp_path / "a.png").write_bytes(torn + chunk(b"IEND", b""))
    code = (
        "import sys; from pathlib import Path; from evaluate.images.contact_sheet import "
        "read_cells; print(read_cells(Path(sys.argv[1])))"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert (process.stdout, "Warning" in process.stderr) == ("{}\n", False)


def write_record(study: Path, number: int, body: str = "1") -> Path:
    """Writes a record that also has an unknown setting, with this JSON value."""
    saved: dict[str, Any] = {
        "study": "s", "number": number, "overrides": [], "params": {}, "tags": {}, "epochs": [],
        "settings": {"data": {"path": "here"}, "unknown": "@"},
    }  # fmt: skip
    folder = study / "trials" / f"{number:04d}"
    folder.mkdir(parents=True)
    (folder / RECORD_FILE).write_text(json.dumps(saved).replace('"@"', body))
    return folder


def test_record_with_too_many_values_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_record(tmp_path, 0, "[" + "{}," * 1_000_000 + "{}]")
    write_record(tmp_path, 1)
    assert [record.number for record in load_records(tmp_path)] == [1]
    assert "at most 2000000 are read; the trial is left out" in caplog.text
    with pytest.raises(RecordError, match="values"):
        load_record(folder)


def test_unknown_settings_are_not_kept_in_memory(tmp_path: Path) -> None:
    folder = write_record(tmp_path, 0, "[1, 2]")
    assert [record.settings for record in load_records(tmp_path)] == [{"data": {"path": "here"}}]
    assert load_record(folder).settings["unknown"] == [1, 2]


def test_memory_of_all_records_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_record(tmp_path, number, "[" + "0," * 100 + "0]")
    assert len(load_records(tmp_path)) == 3
    monkeypatch.setattr(records, "MAX_MEMORY", 12_000)
    with pytest.raises(ConfigError, match="its records would take more than"):
        load_records(tmp_path)
