"""Files of probe images: lossless, of any size, and cropped from the sheet if they are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from evaluate.images import probe_images
from evaluate.images.contact_sheet import (
    Cell,
    contact_sheet,
    read_cells,
    read_positions,
    save_sheet,
)
from evaluate.images.probe_images import (
    images_file,
    probe_cells,
    read_probe_images,
    save_probe_images,
)
from evaluate.scorecard import Scorecard
from tests.evaluate.images.test_sheets import ROLES, probes
from train.files.untrusted import UntrustedFileError

IMAGES = np.random.default_rng(0).integers(0, 256, (len(ROLES), 200, 200, 3), dtype=np.uint8)
NAMES = ("copy 1", "fresh 1", "fresh 0", "caption 3", "fresh 99")


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """A contact sheet with its probe images next to it."""
    file = tmp_path / "sheets" / "000001.png"
    card = Scorecard(Path("-"), 1, {}, images=IMAGES, copies={1: 0})
    save_probe_images(IMAGES, file)
    save_sheet(contact_sheet(card, probes(), torch.zeros(2, 3, 8, 8)), file)
    return file


def same(cells: dict[str, Cell], others: dict[str, Cell]) -> bool:
    return [*cells] == [*others] and all(
        cell._replace(image=None) == others[name]._replace(image=None)  # type: ignore[arg-type]
        and cell.image.tobytes() == others[name].image.tobytes()
        for name, cell in cells.items()
    )


def test_probe_images_are_lossless(sheet: Path) -> None:
    images = read_probe_images(images_file(sheet), [3, 0, 7])
    assert [*images] == [3, 0]
    assert all(np.array_equal(np.asarray(image), IMAGES[row]) for row, image in images.items())


def test_study_with_only_sheets_shows_the_same_images(sheet: Path) -> None:
    own = probe_cells(sheet, NAMES)
    assert [*own] == [*NAMES[:-1]]
    assert own["fresh 1"].flagged
    images_file(sheet).unlink()
    assert same(own, probe_cells(sheet, NAMES))
    assert same(own, read_cells(sheet, NAMES))


def test_damaged_probe_images_are_cropped_from_the_sheet(
    sheet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, names = images_file(sheet), [*read_positions(sheet)]
    good, cut = file.read_bytes(), read_cells(sheet, names)
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\2\0\0\0\0\0\0\0"
    for content in (b"", good[:100], good[:-1], b"\xff" * 100, good.replace(b"IHDR", b"IHDX")):
        file.write_bytes(content)
        assert same(probe_cells(sheet, names), cut)
    for tensor in (np.zeros(0, np.uint8), np.frombuffer(bomb, np.uint8), np.zeros((2, 2))):
        save_file({"0": tensor, "1": tensor}, file)
        assert read_probe_images(file, [0, 1]) == {}
        assert same(probe_cells(sheet, names), cut)
    file.write_bytes(good)
    monkeypatch.setattr(probe_images, "MAX_PIXELS", 2 * 200 * 200)
    assert [*read_probe_images(file, range(4))] == [0, 1]
    assert same(probe_cells(sheet, names), cut)
    monkeypatch.setattr(probe_images, "MAX_BYTES", 1000)
    with pytest.raises(UntrustedFileError, match="larger than"):
        read_probe_images(file, range(4))
