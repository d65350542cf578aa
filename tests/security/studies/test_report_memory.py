"""Reports of received studies: what is read of large sheets and records is bounded."""

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


def test_places_are_read_without_the_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved_sheet(tmp_path / "a.png")

    def load(picture: Image.Image) -> None:
        raise AssertionError("its pixels are read")

    monkeypatch.setattr(sheets, "_in_rgb", load)
    assert [*read_positions(file)] == [f"fresh {i}" for i in range(20)]
    assert read_cells(file, ["fresh 99"]) == {}


def test_pictures_that_are_not_wanted_are_not_cut_out(tmp_path: Path) -> None:
    file = saved_sheet(tmp_path / "a.png")
    assert [*read_cells(file, ["fresh 3", "fresh 99", "fresh 1"])] == ["fresh 3", "fresh 1"]
    assert len(read_cells(file)) == 20
    assert read_cells(file, ["fresh 3"])["fresh 3"].image.size == (CELL, CELL)


def test_a_sheet_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved_sheet(tmp_path / "a.png")
    assert len(read_sheet(file)) == 20
    for limit, most, words in (
        ("MAX_PIXELS", 999_999, "over .* megapixels"),
        ("MAX_CELLS", 19, "names more images"),
        ("MAX_BYTES", 1000, "is larger than"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sheets, limit, most)
            with pytest.raises(UntrustedFileError, match=words):
                read_sheet(file)
            assert read_positions(file) == {}


def test_a_png_of_very_many_chunks_is_none_of_this_program(tmp_path: Path) -> None:
    file = saved_sheet(tmp_path / "a.png")
    content = file.read_bytes()
    file.write_bytes(content[:33] + CHUNK * 6000 + content[33:])
    for read in (read_png, read_sheet):
        with pytest.raises(UntrustedFileError, match=r"a\.png: .*more than 5000 chunks"):
            read(file)


def test_sheets_of_all_probes_are_within_the_limits() -> None:
    """Of the most that `probes.count` may be."""
    section = sheets.Section("", [sheets.Cell(Image.new("RGB", (8, 8)))] * 4096, 3)
    width = sheets.GAP + sheets.COLUMNS * (CELL + sheets.GAP)
    more = 4 * (section.height // 683)  # the training pictures and rows that are not full
    assert width * (section.height + more) <= sheets.MAX_PIXELS


def test_a_large_sheet_is_no_warning_on_the_terminal(tmp_path: Path) -> None:
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
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert (done.stdout, "Warning" in done.stderr) == ("{}\n", False)


def recorded(study: Path, number: int, body: str = "1") -> Path:
    """A record with a list of settings that nothing knows, and one beside those of the data."""
    saved: dict[str, Any] = {
        "study": "s", "number": number, "overrides": [], "params": {}, "tags": {}, "epochs": [],
        "settings": {"data": {"path": "here"}, "unknown": "@"},
    }  # fmt: skip
    folder = study / "trials" / f"{number:04d}"
    folder.mkdir(parents=True)
    (folder / RECORD_FILE).write_text(json.dumps(saved).replace('"@"', body))
    return folder


def test_a_record_of_very_many_values_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = recorded(tmp_path, 0, "[" + "{}," * 1_000_000 + "{}]")
    recorded(tmp_path, 1)
    assert [one.number for one in load_records(tmp_path)] == [1]
    assert "at most 2000000 are read; the trial is left out" in caplog.text
    with pytest.raises(RecordError, match="values"):
        load_record(folder)


def test_what_nothing_knows_is_not_kept_of_all_trials(tmp_path: Path) -> None:
    folder = recorded(tmp_path, 0, "[1, 2]")
    assert [one.settings for one in load_records(tmp_path)] == [{"data": {"path": "here"}}]
    assert load_record(folder).settings["unknown"] == [1, 2]


def test_the_memory_of_all_records_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        recorded(tmp_path, number, "[" + "0," * 100 + "0]")
    assert len(load_records(tmp_path)) == 3
    monkeypatch.setattr(records, "MAX_MEMORY", 12_000)
    with pytest.raises(ConfigError, match="its records would take more than"):
        load_records(tmp_path)
