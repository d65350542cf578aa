"""Turns a leased trial into one that is ready to run, or refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sweeper.config import SweepConfig
from sweeper.console.progress import Progress, log_line
from sweeper.execution.context import StudyContext, origin_tags
from sweeper.execution.early_stopping import (
    stop_if_pruned,
    stop_on_memorization,
    stop_on_plateau,
    stop_without_learning,
)
from sweeper.execution.trial import Trial
from sweeper.search.search_space import Params
from sweeper.study.trial_lease import LeasedTrial
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import (
    EPOCHS_TAG,
    FAILED,
    PREPARING_TAG,
    TrialRecord,
    resume_record,
)
from train.loop.schedule import schedule_of


@dataclass(frozen=True)
class TrialSettings:
    """The settings of a trial and their origin.

    Attributes:
        config: the composed and checked settings.
        overrides: the Hydra overrides that produced them.
        params: the values that the search proposed.
        preset: the chosen option of the group `preset`.
    """

    config: SweepConfig
    overrides: list[str]
    params: Params
    preset: str = "none"


def make_trial(
    settings: TrialSettings,
    lease: LeasedTrial,
    context: StudyContext,
    mirror: MlflowMirror,
    total: int,
) -> Trial:
    """A trial that is ready to run. One that was started before continues from its folder.

    Args:
        context: the study's context.
        total: number of trials of the study.

    Raises:
        DataError: something is wrong with the images.
    """
    config, context = settings.config, context.for_trial(settings.config)
    schedule = schedule_of(config, context.dataset)
    study = _study_folder(lease)
    record = resume_record(lease.folder, lease.params) or TrialRecord(
        folder=lease.folder,
        study=study.name,
        number=lease.number,
        settings=asdict(config),
        overrides=settings.overrides,
        params=settings.params,
        tags={
            **origin_tags(context),
            "preset": settings.preset,
            EPOCHS_TAG: str(schedule.epochs),
            PREPARING_TAG: f"{context.scorer.seconds:.3f}",
        },
    )
    return Trial(
        config=config,
        context=context,
        record=record,
        mirror=mirror,
        progress=Progress(study, total, schedule.checkpoints),
        rules=[
            stop_on_memorization(config.selection, config.early_stop.memorization_patience),
            stop_on_plateau(config.selection, config.early_stop.patience),
            stop_without_learning(config.early_stop.min_progress_share, schedule.epochs),
            stop_if_pruned(lease, config.selection),
        ],
        lease=lease,
        # its last retry is alone, so that a crash is its own fault and not another trial's
        alone=0 < config.study.retries <= lease.crash_count,
    )


def refuse(lease: LeasedTrial, overrides: list[str], reason: str) -> None:
    """Fails a trial that cannot start, or cannot continue, and releases it."""
    with lease:
        lease.fail()
        record = resume_record(lease.folder, lease.params) or TrialRecord(
            folder=lease.folder,
            study=_study_folder(lease).name,
            number=lease.number,
            settings={},
            overrides=overrides,
            params=lease.params,
            tags={},
        )
        record.end(FAILED, reason)
        log_line(f"trial {lease.number}  failed: {reason}")


def preset_of(choices: Mapping[str, str]) -> str:
    """The chosen option of the group `preset` in Hydra's choices."""
    return str(choices.get("preset", "none"))


def _study_folder(lease: LeasedTrial) -> Path:
    return lease.folder.parent.parent
