"""What all trials of a study share: the base, the data set, the scorer, and their origin."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml
from torch import Tensor

from evaluate.files_check import check_files
from evaluate.images.contact_sheet import CELL, DATA_SHEET, data_sheet, save_sheet
from evaluate.scorer import Scorer
from evaluate.selection.policy import check_scores
from evaluate.tracking.environment import environment
from sweeper.config import SweepConfig
from sweeper.search.search_space import Space
from sweeper.study_folder import studies_in, study_folder
from sweeper.tracking.mlflow_mirror import BASE_SHEET, StudyInfo
from sweeper.tracking.trial_record import load_records
from train.config.flattening import flatten
from train.config.schema import BASE_LOCATION_KEYS, DATA_LOCATION_KEYS, DataConfig, trial_of
from train.data.dataset import Dataset, load_dataset
from train.data.images.cropping import square
from train.data.images.image import DataError, TrainingImage
from train.loop.file_metadata import counts
from train.loop.schedule import training_report
from train.models.base_model import BaseModel, load_base
from train.models.model_files import BaseError, check_location
from train.system.outage import Outage
from train.text.terminal import log_lines

log = logging.getLogger(__name__)
# locations, devices and warnings may change in the middle of a study
UNCOMPARED_KEYS = (
    *(f"data.{key}" for key in DATA_LOCATION_KEYS), *(f"base.{key}" for key in BASE_LOCATION_KEYS),
    "data.min_images_warning", "cache", "cache_path",
)  # fmt: skip


@dataclass(frozen=True)
class StudyContext:
    """The objects that all trials of a study share. They are loaded once.

    Attributes:
        data: the settings of the data set.
    """

    base: BaseModel
    dataset: Dataset
    scorer: Scorer
    data: DataConfig

    def for_trial(self, config: SweepConfig) -> StudyContext:
        """The context of one trial.

        Of the data settings only `repeats` may be searched, which does not affect the scorer.

        Raises:
            DataError, Outage: see `load_context`.
        """
        if config.data == self.data:
            return self
        with _outage_if_used_before(config):
            return replace(self, dataset=load_dataset(config.data), data=config.data)


def load_context(config: SweepConfig) -> StudyContext:
    """Loads the data set, the base and the scorer of a study.

    Raises:
        DataError, BaseError: something is wrong with the images or the base.
        Outage: the same, if a study has used them before: they are temporarily unavailable.
        ConfigError: the selection uses a score that these images cannot have.
    """
    check_files(config.probes, config.scores)
    with _outage_if_used_before(config):
        check_location(config.base.path)
        dataset = load_dataset(config.data)
        log_lines(log, training_report(trial_of(config), dataset))
        log.info(f"loading the base {config.base.path} and the scorer")
        base = load_base(config.base)
    cache = Path(config.study.root) / "cache"
    scorer = Scorer(base, dataset, config.data, config.probes, config.scores, cache)
    check_scores(config.selection, scorer.names)
    return StudyContext(base, dataset, scorer, config.data)


@contextmanager
def _outage_if_used_before(config: SweepConfig) -> Iterator[None]:
    """Context manager: errors about images and a base that a study has used become an Outage."""
    try:
        yield
    except (DataError, BaseError) as error:
        if _used_before(config):
            raise Outage(str(error)) from error
        raise


def _used_before(config: SweepConfig) -> bool:
    """Whether a trial of the study (or of any, if unnamed) has used the same images and base."""
    current = asdict(config)
    root = Path(config.study.root)
    studies = [config.study.name] if config.study.name else studies_in(root)
    return any(
        record.settings.get("data") == current["data"]
        and record.setting("base", "path") == current["base"]["path"]
        for name in studies
        for record in load_records(study_folder(root, name, "study.name"))
        if record.epochs
    )


def shared_settings(
    config: SweepConfig, context: StudyContext, space: Space | None
) -> dict[str, str]:
    """The settings that a study's trials share, flat. A study can be continued only with the same.

    Args:
        space: the search space; None for single trials, which have different settings.
    """
    settings = flatten(asdict(trial_of(config)))
    compared = {
        key: value
        for key, value in settings.items()
        if key not in UNCOMPARED_KEYS
        and (key == "data.resolution" if space is None else not space.covers(key))
    }
    scoring = flatten({"probes": asdict(config.probes), "scores": asdict(config.scores)})
    searched = {f"search of {k}": values for k, values in (space or Space(())).describe().items()}
    return {
        **{key: str(value) for key, value in (compared | scoring | searched).items()},
        **fingerprint_tags(context),
    }


def fingerprint_tags(context: StudyContext) -> dict[str, str]:
    """Fingerprints of the images, the base and the probes, independent of their location."""
    return {
        "data.fingerprint": context.dataset.fingerprint,
        "base.fingerprint": context.base.fingerprint,
        "probes.fingerprint": context.scorer.fingerprint,
    }


def origin_tags(context: StudyContext) -> dict[str, str]:
    """Tags that describe the origin of a run: fingerprints, versions, hardware."""
    return {
        **fingerprint_tags(context),
        **dataset_tags(context.dataset),
        **environment(context.base.device),
    }


def dataset_tags(dataset: Dataset) -> dict[str, str]:
    """Tags of a data set: its fingerprint and the image counts."""
    return {"data.fingerprint": dataset.fingerprint, "data.pictures": counts(dataset)}


def study_info(
    context: StudyContext, config: SweepConfig, study: Path, params: dict[str, str]
) -> StudyInfo:
    """What MLflow shows about a study. Draws its data sheet and the base's sheet, once.

    Args:
        study: the study's folder.
        params: the settings that its trials share, the search space, the budget.
    """
    sheet, dataset = study / DATA_SHEET, context.dataset
    if not sheet.is_file():  # it is written last, so if it exists, both do
        save_sheet(context.scorer.base_sheet(), study / BASE_SHEET)
        save_sheet(
            data_sheet(_with_captions(dataset.training), _with_captions(dataset.validation)), sheet
        )
    return StudyInfo(
        params=params,
        tags=origin_tags(context),
        texts={
            "config.yaml": yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True),
            "data.txt": dataset.report(),
        },
        images={"data_sheet": sheet},
    )


def _with_captions(images: Sequence[TrainingImage]) -> list[tuple[Tensor, str]]:
    return [(square(image, CELL), image.caption) for image in images]
