"""What a study is made with may be away when it is continued: its settings are not at fault."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from sweeper.config import SweepConfig
from sweeper.execution.context import load_context
from tests.sweeper.study.test_budget import record
from train.data.images.image import DataError
from train.models.model_files import BaseError
from train.system.outage import Outage


@pytest.mark.parametrize("name", ["me", None])
@pytest.mark.parametrize("away", ["data", "base"])
def test_what_was_there_before_is_waited_for(
    tmp_path: Path, picture_folder: Path, away: str, name: str | None
) -> None:
    config = SweepConfig()
    config.study.root, config.study.name = str(tmp_path), name
    config.data.path = str(picture_folder)
    getattr(config, away).path = str(tmp_path / "share" / "of mine")
    with pytest.raises((DataError, BaseError)):  # nothing has worked with it: it is mistyped
        load_context(config)
    trial = record(0, 0.5)
    trial.folder, trial.settings = tmp_path / "studies" / "me" / "trials" / "0000", asdict(config)
    trial.save()
    with pytest.raises(Outage, match="of mine"):
        load_context(config)
    getattr(config, away).path = str(tmp_path / "share" / "of min")
    with pytest.raises((DataError, BaseError)):
        load_context(config)
