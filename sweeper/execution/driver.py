"""The loop over the trials of a study: leases a trial, prepares it, and passes it to a pack."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from optuna.pruners import BasePruner

from evaluate.tracking.tracking_uri import check_tracking
from sweeper.config import OBJECTIVES, WAIT, default_study_name
from sweeper.console.live_table import live_table
from sweeper.execution.context import shared_settings, study_info
from sweeper.execution.disk import describe_space, low_space_reason
from sweeper.execution.outage_retry import retry_on_outage
from sweeper.execution.pack_runner import run_trials
from sweeper.execution.search_setup import HydraSweep, Search, parse_search
from sweeper.execution.study_command import StudyCommand, clean_exit, raise_if_stopped
from sweeper.execution.trial import Trial
from sweeper.execution.trial_setup import TrialSettings, make_trial, preset_of, refuse
from sweeper.execution.workers import launch_workers
from sweeper.hydra_launcher import PackedLauncher
from sweeper.search.samplers import instantiate_checked
from sweeper.stop_request import (
    graceful_stop,
    ignore_requests_before,
    stop_reason,
    stop_request_times,
)
from sweeper.study.budget import budget_exhausted
from sweeper.study.study import Study, begin_study
from sweeper.study.study_attributes import TOTAL_ATTRIBUTE
from sweeper.study.trial_lease import LeasedTrial
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import load_records
from train.cli.app import configure_logging, with_one_line_errors
from train.data.folders.wording import count_noun
from train.errors import ConfigError, UserError
from train.loop.construction_checks import check_device
from train.loop.schedule import schedule_of
from train.system.outage import Outage, outage

log = logging.getLogger(__name__)


def sweep(hydra: HydraSweep, arguments: list[str]) -> None:
    """Runs the missing trials of the study; the same command continues it.

    Args:
        arguments: the overrides of the command line.
    """
    configure_logging()  # now that the libraries are imported
    with_one_line_errors(lambda: _sweep(parse_search(hydra, arguments)))


def _sweep(search: Search) -> None:
    hydra, config = search.hydra, search.config
    check_tracking(Path(config.study.root))
    if not isinstance(hydra.launcher, PackedLauncher):
        launch_workers(hydra.launcher, hydra.workers, config)
        return
    instantiate_checked("pruner", config.pruner, BasePruner)
    check_device(config.base)
    ignore_requests_before(stop_request_times(Path(config.study.root)))
    retry_on_outage(config.study, Driver(search, hydra.launcher.pack).run)


class Driver(StudyCommand):
    """Runs the trials of a search in this process.

    Args:
        pack: number of trials at once, or "auto".
    """

    def __init__(self, search: Search, pack: int | str) -> None:
        super().__init__(search.config)
        self.search, self.pack = search, pack
        # settings of the trial that needs the most disk space
        largest = [*search.fixed, *search.space.largest_overrides()]
        self.largest_config = search.hydra.compose(largest)

    def run(self) -> None:
        """Begins or continues the study, runs its missing trials, and finalizes it.

        Raises:
            Outage: the machine fails, or the disk has no space for the next trial.
        """
        self.check_folder()
        study = self._begin_study()
        total = study.total_trials(self.search.n_trials)
        study.optuna.set_user_attr(TOTAL_ATTRIBUTE, total)
        mirror = self.mirror(study.folder)
        with clean_exit(mirror):
            self._announce(study, total, mirror)
            epochs = schedule_of(self.config, self.context.dataset).checkpoints
            with (
                graceful_stop(study.folder, self.config.study.budget.hours),
                live_table(study.folder, total, epochs, self.config.selection),
            ):
                run_trials(self.trials(study, total, mirror), self.pack)
                while not self._end_reason(study) and study.has_orphans():
                    run_trials(self.trials(study, total, mirror), self.pack)
                raise_if_stopped()
                low_space = self._blocking_low_space(study, total)
            if low_space and self.config.study.on_outage == WAIT:
                raise Outage(low_space)
            with study.lock:
                if held_elsewhere := study.held_by_others():
                    other_trials = count_noun(len(held_elsewhere), "trial")
                    log.info(
                        f"other workers run {other_trials}; the last of them finalizes the study"
                    )
                    return
                self.finalize(study.folder)
            if low_space:
                raise Outage(low_space)

    def trials(self, study: Study, total: int, mirror: MlflowMirror) -> Iterator[Trial]:
        """Yields trials, each proposed as late as possible so that the search knows most results.

        A trial that cannot start is marked as failed and skipped.

        Raises:
            Outage: the machine fails.
        """
        while lease := self._next_lease(study, total):
            try:
                trial = self._prepare(study, lease, total, mirror)
            except BaseException:
                lease.release()
                raise
            if trial is not None:
                yield trial

    def _next_lease(self, study: Study, total: int) -> LeasedTrial | None:
        if reason := self._end_reason(study):
            log.info(f"starting no further trial: {reason}")
            return None
        return study.next_trial(self.search.n_trials)

    def _prepare(
        self, study: Study, lease: LeasedTrial, total: int, mirror: MlflowMirror
    ) -> Trial | None:
        """The trial of a lease; None if it was refused."""
        study_overrides = [f"study.name={study.folder.name}", f"study.trial={lease.number}"]
        overrides = [*self.search.fixed, *study_overrides, *study.space.overrides(lease.params)]
        hydra = self.search.hydra
        try:
            config = hydra.compose(overrides)
            if lease.crash_count > config.study.retries:
                raise ConfigError(f"its process crashed {lease.crash_count} times")
            preset = preset_of(hydra.config.hydra.runtime.choices)
            settings = TrialSettings(config, overrides, lease.params, preset)
            return make_trial(settings, lease, self.context, mirror, total)
        except UserError as error:
            if reason := outage(error):
                raise Outage(reason) from error
            refuse(lease, overrides, str(error))
            return None

    def _begin_study(self) -> Study:
        search, hydra = self.search, self.search.hydra
        settings = shared_settings(self.config, self.context, search.space)
        return begin_study(
            self.config.study,
            default_study_name(self.config),
            shared_settings=settings | {"objective": hydra.objective},
            space=search.space,
            sampler=hydra.sampler,
            pruner=self.config.pruner,
            directions=OBJECTIVES[hydra.objective],
            seed=hydra.seed,
            initial_params=search.initial_params,
        )

    def _announce(self, study: Study, total: int, mirror: MlflowMirror) -> None:
        """Logs what the study will do and need, and begins its run in MLflow."""
        dimensions = (f"{key}: {values}" for key, values in self.search.space.describe().items())
        log.info(f"searching {'; '.join(dimensions)}")
        log.info(_describe_progress(study, total))
        log.info(
            describe_space(self.context.base, self.context.dataset, self.largest_config, total)
        )
        params = {"n_trials": str(total), "seed": str(self.search.hydra.seed)}
        params |= study.shared_settings
        budget = vars(self.config.study.budget)
        params |= {f"budget.{key}": str(value) for key, value in budget.items()}
        mirror.begin(study_info(self.context, self.config, study.folder, params))

    def _end_reason(self, study: Study) -> str:
        """Why no further trial may start; empty if one may."""
        records, budget = load_records(study.folder), self.config.study.budget
        exhausted = budget_exhausted(budget, records, self.config.selection)
        return stop_reason() or exhausted or self._low_space(study)

    def _blocking_low_space(self, study: Study, total: int) -> str:
        """Why the disk has no space for the remaining trials.

        Empty if it has, or if the study ends for another reason.
        """
        records = load_records(study.folder)
        ended = sum(record.finished for record in records)
        exhausted = budget_exhausted(self.config.study.budget, records, self.config.selection)
        return "" if ended >= total or stop_reason() or exhausted else self._low_space(study)

    def _low_space(self, study: Study) -> str:
        context = self.context
        return low_space_reason(study.folder, context.base, context.dataset, self.largest_config)


def _describe_progress(study: Study, total: int) -> str:
    """Describes the progress of a study, and how much of its space it searches."""
    records = load_records(study.folder)
    finished = sum(record.finished for record in records)
    trials = count_noun(total, "trial")
    if records:
        trials = f"continues: {finished} of {trials} finished"
    size = study.space.size()
    share = f" of {size} combinations" if size else ""
    return f"study {study.folder}  {trials}{' (all combinations)' if total == size else share}"
