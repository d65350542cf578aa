"""A search from its command line to its end: the loop over the trials of a study."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import BasePruner

from evaluate.tracking.tracking_uri import check_tracking
from sweeper.config import OBJECTIVES, WAIT, SweepConfig, suggested_name
from sweeper.console.live_table import display
from sweeper.execution.budget import used_up
from sweeper.execution.context import StudyContext, about_study, load_context, shared_settings
from sweeper.execution.disk import describe, too_full
from sweeper.execution.finalize import finalize_study
from sweeper.execution.hydra_launcher import PackedLauncher
from sweeper.execution.jobs import (
    check_study_folder,
    ending_cleanly,
    job_config,
    leave_if_asked,
    refuse,
    tracker_of,
)
from sweeper.execution.outage_retry import retry_on_outage
from sweeper.execution.workers import launch_workers
from sweeper.search.samplers import check_sampler, made, trials_of
from sweeper.search.search_space import Params, Space, parse_space
from sweeper.stop_request import asked_before, in_good_order, leaving, listen_from
from sweeper.study.study import Study, begin_study, best_settings
from sweeper.study.study_attributes import TOTAL
from sweeper.study.trial_lease import LeasedTrial
from sweeper.study_folder import study_folder
from sweeper.tracking.trial_record import load_records
from train.cli.app import quiet, with_one_line_errors
from train.config.parsing import keys, suggestion
from train.data.folders.wording import agreed, counted
from train.errors import ConfigError
from train.loop.construction_checks import check_device
from train.loop.schedule import schedule_of
from train.system.outage import Outage

log = logging.getLogger(__name__)
BEST = 3  # trials of another study that are tried first


@dataclass(frozen=True)
class Hydra:
    """What Hydra hands over to a sweeper, and the sweeper's own settings (conf/hydra/sweeper).

    Attributes:
        config: as composed, Hydra's own part included.
        launcher: runs jobs.
        n_trials: of the whole study, those of earlier starts included; None: see `trials_of`.
        workers: how many jobs a launcher of others is given.
        objective: one of OBJECTIVES.
        seed: of the search.
        sampler: a sampler's `_target_` and its arguments, without the seed.
    """

    context: HydraContext
    config: DictConfig
    launcher: Launcher
    n_trials: int | None
    workers: int
    objective: str
    seed: int
    sampler: dict[str, Any]


def sweep(hydra: Hydra, arguments: list[str]) -> None:
    """Runs the trials that the study lacks; the same again continues it."""
    quiet()  # the libraries are imported now
    with_one_line_errors(lambda: _sweep(hydra, arguments))


def _sweep(hydra: Hydra, arguments: list[str]) -> None:
    parser = OverridesParser.create(hydra.context.config_loader)
    search = {str(k): str(v) for k, v in hydra.config.search.items()}  # each resolved as it is read
    space, fixed = parse_space(arguments, search, parser, partial(configured, hydra.config))
    check_sampler(hydra.sampler, space, len(OBJECTIVES[hydra.objective]))
    wanted = trials_of(hydra.n_trials, hydra.sampler, space)
    hydra = replace(hydra, n_trials=wanted)
    config = _job_config(hydra, fixed)
    _check_space(hydra, space, fixed)
    first = first_settings(hydra.config, config, space)
    check_tracking(Path(config.study.root))
    if not isinstance(hydra.launcher, PackedLauncher):
        launch_workers(hydra.launcher, hydra.workers, config)
        return
    made("pruner", config.pruner, BasePruner)
    check_device(config.base)
    log.info("searching " + "; ".join(f"{k}: {words}" for k, words in space.describe().items()))
    listen_from(asked_before(Path(config.study.root)))
    retry_on_outage(config.study, lambda: _search(hydra, config, space, fixed, first))


def _search(
    hydra: Hydra, config: SweepConfig, space: Space, fixed: list[str], first: list[Params]
) -> None:
    """The trials that the study lacks, and its result.

    Args:
        fixed: overrides that all trials share.
        first: settings that are tried before any are proposed.
    """
    assert hydra.n_trials
    check_study_folder(config)
    parts = load_context(config)
    study = _study(hydra, config, parts, space, first)
    total = study.total(hydra.n_trials)
    study.optuna.set_user_attr(TOTAL, total)
    tracker = tracker_of(Path(config.study.root), study.folder)
    with ending_cleanly(tracker):
        _announce(study, total)
        largest = _job_config(hydra, [*fixed, *space.largest()])
        log.info(describe(parts.base, parts.pictures, largest, total))
        budget = {"n_trials": str(total), "seed": str(hydra.seed), **study.about}
        budget |= {f"budget.{k}": str(v) for k, v in vars(config.study.budget).items()}
        tracker.begin(about_study(parts, config, study.folder, budget))
        checkpoints = schedule_of(config, parts.pictures).checkpoints
        with (
            in_good_order(study.folder, config.study.budget.hours),
            display(study.folder, total, checkpoints, config.selection),
        ):
            _launch(hydra, study, fixed, largest)
            while not _enough(study, largest) and study.has_orphans():
                _launch(hydra, study, fixed, largest)
            leave_if_asked()
            full = _lacks_room(study, largest, total)
        if full and config.study.on_outage == WAIT:
            raise Outage(full)
        with study.lock:
            if held := study.elsewhere():
                others = counted(len(held), "trial")
                log.info(f"other workers are at {others}; the last of them concludes")
                return
            finalize_study(study.folder, config.selection, tracker, parts, config.study.storage)
        if full:
            raise Outage(full)


def _study(
    hydra: Hydra, config: SweepConfig, parts: StudyContext, space: Space, first: list[Params]
) -> Study:
    """The study to begin or to continue."""
    about = shared_settings(config, parts, space) | {"objective": hydra.objective}
    return begin_study(
        config.study,
        suggested_name(config),
        about=about,
        space=space,
        sampler=hydra.sampler,
        pruner=config.pruner,
        directions=OBJECTIVES[hydra.objective],
        seed=hydra.seed,
        first=first,
    )


def _launch(hydra: Hydra, study: Study, fixed: list[str], config: SweepConfig) -> None:
    """Runs the trials that the study lacks and that nobody else is at.

    Args:
        config: of a trial that takes the most room.
    """
    assert isinstance(hydra.launcher, PackedLauncher)
    with closing(_jobs(hydra, study, fixed, config)) as jobs:
        hydra.launcher.launch((overrides for _, overrides in jobs), initial_job_idx=0)


def _jobs(
    hydra: Hydra, study: Study, fixed: list[str], config: SweepConfig
) -> Generator[tuple[LeasedTrial, list[str]]]:
    """A trial after the other, each proposed when it is asked for; the job takes over its lock."""
    name = f"study.name={study.folder.name}"
    while trial := _next_trial(hydra, study, config):
        with trial:
            number = f"study.trial={trial.number}"
            overrides = [*fixed, name, number, *study.space.overrides(trial.params)]
            try:
                _job_config(hydra, overrides)
                if trial.deaths > config.study.retries:
                    raise ConfigError(f"its process died {trial.deaths} times")
            except ConfigError as error:
                refuse(trial, overrides, str(error))
                continue
            yield trial, overrides


def _next_trial(hydra: Hydra, study: Study, config: SweepConfig) -> LeasedTrial | None:
    """A trial to run; None where there are enough, or the budget is used up."""
    if enough := _enough(study, config):
        log.info(f"no further trial: {enough}")
        return None
    assert hydra.n_trials
    return study.next_trial(hydra.n_trials)


def _enough(study: Study, config: SweepConfig) -> str:
    """Why no further trial is to begin; empty: one may."""
    parts = load_context(config)
    return (
        leaving()
        or used_up(config.study.budget, load_records(study.folder), config.selection)
        or too_full(study.folder, parts.base, parts.pictures, config)
    )


def _lacks_room(study: Study, config: SweepConfig, total: int) -> str:
    """Why trials that nothing else ends cannot begin on this disk; empty: none lacks room."""
    records = load_records(study.folder)
    ended = sum(record.finished for record in records)
    if ended >= total or leaving() or used_up(config.study.budget, records, config.selection):
        return ""
    parts = load_context(config)
    return too_full(study.folder, parts.base, parts.pictures, config)


def _announce(study: Study, total: int) -> None:
    records = load_records(study.folder)
    finished = sum(record.finished for record in records)
    begun = counted(total, "trial")
    if records:
        begun = f"continues: {finished} of {begun} {agreed(finished, 'is', 'are')} finished"
    size = study.space.size()
    share = f" of {size} combinations" if size else ""
    log.info(f"study {study.folder}  {begun}{' (all combinations)' if total == size else share}")


def _job_config(hydra: Hydra, overrides: list[str]) -> SweepConfig:
    return job_config(hydra.context.config_loader, hydra.config, overrides)


def _check_space(hydra: Hydra, space: Space, fixed: list[str]) -> None:
    """Tries each dimension's values, ends of ranges, one at a time."""
    groups = set(hydra.config.hydra.runtime.choices)
    known = [*keys(hydra.config), *groups]
    for dimension in space.dimensions:
        if dimension.key.lstrip("+") not in known:
            near = suggestion(dimension.key, known)
            raise ConfigError(f"{dimension.key}: there is no such setting{near}")
        beside = space.beside(dimension)
        for value in dimension.ends():
            _job_config(hydra, [*fixed, *beside, dimension.override(value)])


def first_settings(master: DictConfig, config: SweepConfig, space: Space) -> list[Params]:
    """What is tried first: the configured settings, so that the search cannot end worse than
    these; those of `study.enqueue`; the best of another study.

    Raises:
        ConfigError: queued settings that are not searched.
    """
    dimensions = {dimension.key: dimension for dimension in space.dimensions}
    for params in config.study.enqueue:
        for key, value in params.items():
            if key not in dimensions:
                near = suggestion(key, [*dimensions])
                raise ConfigError(f"study.enqueue: {key} is not searched{near}")
            if not dimensions[key].contains(value):
                raise ConfigError(f"study.enqueue: {key}={value} is outside of the search")
    best = []
    if config.study.warm_start:
        root, name = Path(config.study.root), config.study.warm_start
        other = study_folder(root, name, "study.warm_start")
        best = best_settings(other, config.study.storage, BEST)
    inside = [
        {k: v for k, v in params.items() if k in dimensions and dimensions[k].contains(v)}
        for params in (_defaults(master, space), *config.study.enqueue, *best)
    ]
    return [space.relevant(params) for params in inside if params]


def _defaults(master: DictConfig, space: Space) -> Params:
    """The configured settings as far as they lie in the space."""
    values = [(dimension, configured(master, dimension.key)) for dimension in space.dimensions]
    return {dimension.key: value for dimension, value in values if dimension.contains(value)}


def configured(master: DictConfig, key: str) -> Any:
    """A setting's value, or a group's choice, as composed."""
    choices = master.hydra.runtime.choices
    return choices[key] if key in choices else OmegaConf.select(master, key)
