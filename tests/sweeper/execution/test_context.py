"""What a study is made with may be away when it is continued: its settings are not at fault."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from sweeper.config import SweepConfig
from sweeper.execution.context import StudyContext, load_context
from tests.sweeper.study.test_budget import record
from train.data.dataset import load_dataset
from train.data.images.image import DataError
from train.models.model_files import BaseError
from train.system.outage import Outage


@pytest.mark.parametrize("name", ["me", None])
@pytest.mark.parametrize("away", ["data", "base"])
def test_what_was_there_before_is_waited_for(
    tmp_path: Path, image_folder: Path, away: str, name: str | None
) -> None:
    config = SweepConfig()
    config.study.root, config.study.name = str(tmp_path), name
    config.data.path = str(image_folder)
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


def test_a_trial_with_other_repeats_has_its_dataset_and_the_studys_scorer(
    tmp_path: Path, image_folder: Path
) -> None:
    config = SweepConfig()
    config.study.root, config.study.name = str(tmp_path), "me"
    config.data.path, config.data.trigger = str(image_folder), "sks puppet"
    scorer = cast(Any, object())
    study = StudyContext(cast(Any, None), load_dataset(config.data), scorer, config.data)
    assert study.for_trial(config) is study
    other = replace(config, data=replace(config.data, repeats=3))
    trial = study.for_trial(other)
    assert trial.dataset.images_per_epoch == 3 * study.dataset.images_per_epoch
    assert trial.scorer is scorer
    away = replace(config, data=replace(other.data, path=str(tmp_path / "share")))
    with pytest.raises(DataError):
        study.for_trial(away)
    used = record(0, 0.5)
    used.folder, used.settings = tmp_path / "studies" / "me" / "trials" / "0000", asdict(away)
    used.save()
    with pytest.raises(Outage, match="share"):
        study.for_trial(away)
