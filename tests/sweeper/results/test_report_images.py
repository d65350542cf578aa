"""The images that a report takes from contact sheets."""

from __future__ import annotations

from pathlib import Path

import torch

from evaluate.images.contact_sheet import contact_sheet, save_sheet
from sweeper.results.report.images import all_strips
from sweeper.tracking.trial_record import TrialRecord
from tests.evaluate.images.test_sheets import card, probes


def test_copy_is_shown_before_its_training_image(tmp_path: Path) -> None:
    record = TrialRecord(tmp_path, "study", 0, {}, [], {}, {})
    copied = card(2, {1: 1})
    training = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, 1.0)])
    save_sheet(contact_sheet(copied, probes(), training), record.sheet(2))
    strip = all_strips(record, copied)[-1]
    assert strip.title == "Copies, each with its training image beside it"
    assert [(tile.copy, tile.caption) for tile in strip.tiles] == [
        (True, "prompt 1"),
        (False, "The training image beside its copy"),
    ]
