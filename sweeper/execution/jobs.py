"""Jobs: the trials that a sweep asks for, or a trial by itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from evaluate.selection.objective import MEMORY, constraints, worth
from evaluate.tracking.tracking_uri import check_tracking
from sweeper.config import SweepConfig, check_sweep, suggested_name
from sweeper.console.live_table import display
from sweeper.console.progress import Progress, say
from sweeper.execution.context import (
    StudyContext,
    about_study,
    load_context,
    origin,
    shared_settings,
)
from sweeper.execution.disk import too_full
from sweeper.execution.early_stopping import has_plateaued, memorizes, no_learning, pruned
from sweeper.execution.finalize import finalize_study
from sweeper.execution.outage_retry import retry_on_outage
from sweeper.execution.pack_runner import run_trials
from sweeper.execution.trial import Trial
from sweeper.search.search_space import Params, Space, identity
from sweeper.stop_request import PERSON, asked_before, in_good_order, leaving, listen_from
from sweeper.study.storage import NO_PRUNER, answering, open_study
from sweeper.study.study import begin_study
from sweeper.study.study_attributes import total_of
from sweeper.study.trial_lease import LeasedTrial, acquire
from sweeper.study_folder import study_folder
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import FAILED, LENGTH, PREPARING, TrialRecord, resume_record
from train.cli.arguments import as_typed
from train.cli.compose import without_hydra
from train.config.parsing import typed
from train.config.schema import trial_of
from train.errors import ConfigError, UserError
from train.loop.construction_checks import check_construction, optimizer_class
from train.loop.schedule import schedule_of
from train.system.outage import Outage, outage

INTERRUPTED = 130  # exit code after Ctrl-C
# the last config that was composed: Hydra takes its time, and the sweeper asks, then the launcher
_composed: tuple[DictConfig, list[str], SweepConfig] | None = None


@dataclass(frozen=True)
class Job:
    """A trial's settings, the overrides that made them, and the preset below these."""

    config: SweepConfig
    overrides: list[str]
    preset: str = "none"


def run_jobs(jobs: Iterable[Job], pack: int | str) -> None:
    """Runs the trials of a sweep, `pack` at once; each tells the study how it ended."""
    run_trials(_trials(jobs), pack)


def _trials(jobs: Iterable[Job]) -> Iterator[Trial]:
    for job in jobs:
        config = job.config
        if config.study.trial is None:
            raise ConfigError("hydra/launcher=packed: goes with hydra/sweeper=optuna alone")
        root, name = Path(config.study.root), str(config.study.name)
        pruner = json.dumps(config.pruner, sort_keys=True)
        folder, study = _opened(root, name, pruner, config.study.storage)
        tracker = tracker_of(root, folder)
        claimed = acquire(study, folder, config.study.trial, again=True)
        if claimed is None:
            raise ConfigError(f"trial {config.study.trial} of {folder.name} is run elsewhere")
        try:
            parts = load_context(config)
        except UserError as error:
            if words := outage(error):
                raise Outage(words) from error
            refuse(claimed, job.overrides, str(error))
            continue
        yield _trial(job, claimed, claimed.params, parts, tracker, total_of(study))


@lru_cache(maxsize=1)
def _opened(root: Path, name: str, pruner: str, url: str | None) -> tuple[Path, optuna.Study]:
    """A study, opened once: to read its whole journal again for each trial takes its time."""
    folder = study_folder(root, name, "study.name")
    return folder, open_study(folder, json.loads(pruner), url)


def refuse(trial: LeasedTrial, overrides: list[str], reason: str) -> None:
    """Ends a trial that cannot begin, or not again."""
    with trial:
        trial.fail()
        study = trial.folder.parent.parent.name
        record = resume_record(trial.folder, trial.params) or TrialRecord(
            trial.folder, study, trial.number, {}, overrides, trial.params, {}
        )
        record.end(FAILED, reason)
        say(f"trial {trial.number}  failed: {reason}")


def run(config: SweepConfig) -> None:
    """The configured settings as one trial, in a study of single trials.

    Raises:
        ConfigError: settings that are trained elsewhere now, or that are a search's alone.
        Outage: the machine fails.
    """
    if config.study.trial is not None:
        raise ConfigError("study.trial: is set by a search; leave it null")
    check_construction(config)
    check_tracking(Path(config.study.root))
    listen_from(asked_before(Path(config.study.root)))
    retry_on_outage(config.study, lambda: _run(config))


def _run(config: SweepConfig) -> None:
    hydra = HydraConfig.get()
    job = Job(config, list(hydra.overrides.task), preset_of(hydra.runtime.choices))
    check_study_folder(config)
    parts = load_context(config)
    about = shared_settings(config, parts, None)
    study = begin_study(
        config.study,
        f"{suggested_name(config)}-single",
        about=about,
        space=Space(()),
        sampler={},
        pruner=NO_PRUNER,  # single trials do not compete
        seed=0,
    )
    tracker = tracker_of(Path(config.study.root), study.folder)
    with ending_cleanly(tracker):
        trial = study.trial_of(identity(asdict(trial_of(config))))
        if trial is None:
            raise ConfigError("these settings are being trained by another process")
        with trial:
            tracker.begin(about_study(parts, config, study.folder, study.about))
            if trial.finished and study.has_result(trial.number):
                say(f"trial {trial.number} of {study.folder} had these settings already")
            elif full := too_full(study.folder, parts.base, parts.pictures, config):
                raise Outage(full)
            else:
                overrides = [o for o in job.overrides if not o.startswith("study.")]
                params: Params = dict(as_typed(o).partition("=")[::2] for o in overrides)
                only = _trial(job, trial, params, parts, tracker, trial.number + 1)
                with (
                    in_good_order(study.folder, config.study.budget.hours),
                    display(
                        study.folder,
                        trial.number + 1,
                        schedule_of(config, parts.pictures).checkpoints,
                        config.selection,
                    ),
                ):
                    run_trials([only], 1)
                    leave_if_asked()
        with study.lock:
            finalize_study(study.folder, config.selection, tracker, parts, config.study.storage)


def check_study_folder(config: SweepConfig) -> None:
    """Refuses a study that leads elsewhere before the models are loaded, which takes its time.

    Raises:
        ConfigError: see `study_folder`.
    """
    if config.study.name is not None:
        study_folder(Path(config.study.root), config.study.name, "study.name")


def _trial(
    job: Job,
    claimed: LeasedTrial,
    params: Params,
    parts: StudyContext,
    tracker: MlflowMirror,
    total: int,
) -> Trial:
    """The trial, ready to work; from its folder where it was begun before."""
    config, folder = job.config, claimed.folder
    course = schedule_of(config, parts.pictures)
    study = folder.parent.parent
    record = resume_record(folder, claimed.params) or TrialRecord(
        folder=folder,
        study=study.name,
        number=claimed.number,
        settings=asdict(config),
        overrides=job.overrides,
        params=params,
        tags={
            **origin(parts),
            "preset": job.preset,
            LENGTH: str(course.epochs),
            PREPARING: f"{parts.scorer.seconds:.3f}",
        },
    )
    return Trial(
        config=config,
        record=record,
        tracker=tracker,
        progress=Progress(study, total, course.checkpoints),
        rules=[
            memorizes(config.selection, config.early_stop.memorization_patience),
            has_plateaued(config.selection, config.early_stop.patience),
            no_learning(config.early_stop.min_progress_share, course.epochs),
            pruned(claimed, config.selection),
        ],
        ended=lambda record: tell(claimed, record, config),
        lost=lambda: claimed.lost,
        left=lambda: claimed.lock.release(force=True),
        # whose fault it was shows when each has a process of its own; by then its last chance
        alone=0 < config.study.retries <= claimed.deaths,
    )


def tell(trial: LeasedTrial, record: TrialRecord, config: SweepConfig) -> None:
    """The objectives and the constraints of a trial: those of its selected checkpoint."""
    with trial:
        if record.state == FAILED:
            trial.fail()
            return
        card = next((c for c in record.scorecards if c.epoch == record.selected), None)
        told = constraints(card, config.selection)
        if card is None:  # none can be used: the worst of everything, and not feasible
            trial.complete((0.0, 1.0), told)
            return
        memory = card.scores[MEMORY].value if MEMORY in card.scores else 0.0
        trial.complete((worth(card), memory), told)


@lru_cache(maxsize=1)
def tracker_of(root: Path, study: Path) -> MlflowMirror:
    """The tracker of a study; a process works on one at a time."""
    return MlflowMirror(root, study)


def job_config(loader: ConfigLoader, master: DictConfig, overrides: list[str]) -> SweepConfig:
    """The config of a job, checked.

    Args:
        master: of the sweep.

    Raises:
        ConfigError: it cannot be.
    """
    global _composed
    if _composed and _composed[0] is master and _composed[1] == overrides:
        return _composed[2]
    try:
        composed = loader.load_sweep_config(master, overrides)
    except HydraException as error:
        raise ConfigError(" ".join(f"{error} {error.__cause__ or ''}".split())) from None
    config = typed(SweepConfig, without_hydra(composed))
    check_sweep(config)
    optimizer_class(config.optimizer)
    _composed = (master, overrides, config)
    return config


def preset_of(choices: Mapping[str, str]) -> str:
    """The name of the preset among the groups that Hydra has composed."""
    return str(choices.get("preset", "none"))


def leave_if_asked() -> None:
    """Ends the command where a person asked for it; what the clock ends is concluded."""
    if leaving() == PERSON:
        raise KeyboardInterrupt


@contextmanager
def ending_cleanly(tracker: MlflowMirror) -> Iterator[None]:
    """Ctrl-C ends with a word and code 130, and nothing that was finished is lost."""
    try:
        with answering():
            yield
        tracker.catch_up()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        tracker.interrupt()
        print("interrupted; the same command continues the study", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Outage:
        tracker.interrupt()
        raise
