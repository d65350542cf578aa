"""Images and a base that a study has used may be unavailable: that is not a wrong setting."""

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
@pytest.mark.parametrize("section", ["data", "base"])
def test_inputs_that_were_used_before_are_an_outage(
    tmp_path: Path, image_folder: Path, section: str, name: str | None
) -> None:
    config = SweepConfig()
    config.study.root, config.study.name = str(tmp_path), name
    config.data.path = str(image_folder)
    getattr(config, section).path = str(tmp_path / "share" / "of mine")
    with pytest.raises((DataError, BaseError)):  # never used, so it is a typo
        load_context(config)
    trial = record(0, 0.5)
    trial.folder, trial.settings = tmp_path / "studies" / "me" / "trials" / "0000", asdict(config)
    trial.save()
    with pytest.raises(Outage, match="of mine"):
        load_context(config)
    getattr(config, section).path = str(tmp_path / "share" / "of min")
    with pytest.raises((DataError, BaseError)):
        load_context(config)


def test_a_trial_with_other_repeats_has_its_own_dataset(tmp_path: Path, image_folder: Path) -> None:
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
    unavailable = replace(config, data=replace(other.data, path=str(tmp_path / "share")))
    with pytest.raises(DataError):
        study.for_trial(unavailable)
    trial_record = record(0, 0.5)
    trial_record.folder, trial_record.settings = (
        tmp_path / "studies" / "me" / "trials" / "0000",
        asdict(unavailable),
    )
    trial_record.save()
    with pytest.raises(Outage, match="share"):
        study.for_trial(unavailable)
