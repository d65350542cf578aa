"""Contact sheets: what they show, and the positions of the images in their metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluate.images.contact_sheet import (
    CELL,
    RED,
    contact_sheet,
    data_sheet,
    read_sheet,
    save_sheet,
    scaled,
)
from evaluate.images.epoch_grid import epoch_grid
from evaluate.prompts.attributes import load_attributes
from evaluate.prompts.probe_set import Probe, ProbeSet
from evaluate.prompts.roles import CAPTION, CLASS, FRESH
from evaluate.scorecard import Scorecard

ROLES = (FRESH, FRESH, CLASS, CAPTION)


def probes() -> ProbeSet:
    created = [Probe(f"prompt {i}", f"prompt {i}", i, role, {}) for i, role in enumerate(ROLES)]
    return ProbeSet(created, load_attributes("puppets"), "puppet", {})


def card(epoch: int, copies: dict[int, int]) -> Scorecard:
    """The image of probe k has the brightness 10 * epoch + k."""
    images = np.stack([np.full((8, 8, 3), 10 * epoch + k, np.uint8) for k in range(len(ROLES))])
    return Scorecard(Path("-"), epoch, {}, images=images, copies=copies)


def test_small_images_are_enlarged_without_artifacts() -> None:
    halves = Image.new("L", (64, 64))
    halves.paste(255, (32, 0, 64, 64))
    assert set(np.unique(np.asarray(scaled(halves, 128)))) == {0, 255}
    uneven = np.asarray(scaled(halves, 160))
    assert len(np.unique(uneven)) > 2, "whole pixels would have different widths"


def test_copy_is_shown_next_to_its_training_image(tmp_path: Path) -> None:
    training = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, 1.0)])
    files = {}
    for epoch, copies in ((1, {}), (2, {1: 1})):
        files[epoch] = tmp_path / f"{epoch}.png"
        save_sheet(contact_sheet(card(epoch, copies), probes(), training), files[epoch])
    plain, copied = (read_sheet(file) for file in files.values())
    assert set(copied) - set(plain) == {"copy 1"}
    assert set(plain) == {"fresh 0", "fresh 1", "class 2", "caption 3"}
    brightness = {
        name: cell.image.getpixel((CELL // 2, CELL // 2)) for name, cell in copied.items()
    }
    assert brightness["fresh 0"] == (20,) * 3
    assert brightness["caption 3"] == (23,) * 3
    assert brightness["copy 1"] == (255,) * 3
    assert [copied[f"fresh {k}"].flagged for k in range(2)] == [False, True]
    assert copied["fresh 1"].label == "prompt 1"
    grid = epoch_grid(files, selected=1)
    result = {grid.getpixel((x, y)) for x in range(grid.width) for y in range(grid.height)}
    assert {(10,) * 3, (11,) * 3, (20,) * 3, (21,) * 3, (255,) * 3, RED} <= result
    assert (13,) * 3 not in result, "fresh probes alone"


def test_large_dataset_is_sampled_on_the_data_sheet() -> None:
    images = [(torch.zeros(3, 8, 8), f"caption {i}") for i in range(500)]
    sheet = data_sheet(images, images[:3])
    small = data_sheet(images[:120], images[:3])
    assert 0.7 * small.height < sheet.height <= small.height
