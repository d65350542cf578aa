"""`python -m sweeper`: runs the configured settings as one trial, in a study of single trials."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from evaluate.tracking.tracking_uri import check_tracking
from sweeper.config import SweepConfig, default_study_name
from sweeper.console.live_table import live_table
from sweeper.console.progress import log_line
from sweeper.execution.context import shared_settings, study_info
from sweeper.execution.disk import low_space_reason
from sweeper.execution.outage_retry import retry_on_outage
from sweeper.execution.pack_runner import run_trials
from sweeper.execution.study_command import StudyCommand, clean_exit, raise_if_stopped
from sweeper.execution.trial_setup import TrialSettings, make_trial, preset_of
from sweeper.search.search_space import Params, Space, identity
from sweeper.stop_request import graceful_stop, ignore_requests_before, stop_request_times
from sweeper.study.storage import NO_PRUNER
from sweeper.study.study import Study, begin_study
from sweeper.study.trial_lease import LeasedTrial
from sweeper.tracking.mlflow_mirror import MlflowMirror
from train.cli.arguments import as_typed
from train.config.schema import trial_of
from train.errors import ConfigError
from train.loop.construction_checks import check_construction
from train.loop.schedule import schedule_of
from train.system.outage import Outage


def run(config: SweepConfig) -> None:
    """Trains and scores one trial; the same settings continue it.

    Raises:
        ConfigError: another process trains these settings, or only a search may set one of them.
        Outage: the machine fails.
    """
    if config.study.trial is not None:
        raise ConfigError("study.trial: is set by a search; leave it null")
    check_construction(config)
    check_tracking(Path(config.study.root))
    ignore_requests_before(stop_request_times(Path(config.study.root)))
    retry_on_outage(config.study, SingleTrial(config).run)


class SingleTrial(StudyCommand):
    """The command that runs one trial in a study of single trials."""

    def run(self) -> None:
        """Trains and scores the trial, unless it has a result; then finalizes the study."""
        config = self.config
        self.check_folder()
        study = begin_study(
            config.study,
            f"{default_study_name(config)}-single",
            shared_settings=shared_settings(config, self.context, None),
            space=Space(()),
            sampler={},
            pruner=NO_PRUNER,  # single trials do not compete
            seed=0,
        )
        mirror = self.mirror(study.folder)
        with clean_exit(mirror):
            lease = study.trial_for_settings(identity(asdict(trial_of(config))))
            if lease is None:
                raise ConfigError("these settings are being trained by another process")
            with lease:
                self._train(study, lease, mirror)
            with study.lock:
                self.finalize(study.folder)

    def _train(self, study: Study, lease: LeasedTrial, mirror: MlflowMirror) -> None:
        config, context = self.config, self.context
        mirror.begin(study_info(context, config, study.folder, study.shared_settings))
        if lease.finished and study.has_result(lease.number):
            log_line(f"trial {lease.number} of {study.folder} had these settings already")
            return
        if low_space := low_space_reason(study.folder, context.base, context.dataset, config):
            raise Outage(low_space)
        total = lease.number + 1
        trial = make_trial(_trial_settings(config), lease, context, mirror, total)
        epochs = schedule_of(config, context.dataset).checkpoints
        with (
            graceful_stop(study.folder, config.study.budget.hours),
            live_table(study.folder, total, epochs, config.selection),
        ):
            run_trials([trial], 1)
            raise_if_stopped()


def _trial_settings(config: SweepConfig) -> TrialSettings:
    """The settings; the overrides of the command line are its params."""
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    trial_overrides = [override for override in overrides if not override.startswith("study.")]
    params: Params = dict(as_typed(override).partition("=")[::2] for override in trial_overrides)
    return TrialSettings(config, overrides, params, preset_of(hydra.runtime.choices))
