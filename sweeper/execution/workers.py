"""Workers: other launchers (joblib, submitit, ray) run the same search in several processes."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from sweeper.config import SweepConfig
from sweeper.stop_request import graceful_stop, ignore_requests_before
from sweeper.study_folder import study_folder
from train.cli.app import configure_logging
from train.cli.compose import HYDRA_VERSION, load_local_settings
from train.config.parsing import cause
from train.config.schema import CONF
from train.errors import ConfigError
from train.text.terminal import print_lines

log = logging.getLogger(__name__)
LAUNCHER_PREFIXES = ("hydra/launcher", "hydra.launcher.")
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Worker:
    """The job of a launcher: runs the original command in another process.

    Attributes:
        line: the command's overrides.
        working_directory: the folder that relative paths refer to.
        tracking_uri: the MLflow server; not every launcher passes the environment on.
        earlier_requests: stop requests before the command, see `stop_request_times`.
    """

    line: list[str]
    working_directory: Path = field(default_factory=Path.cwd)
    tracking_uri: str | None = field(default_factory=lambda: os.environ.get(TRACKING_VARIABLE))
    earlier_requests: dict[str, int] = field(default_factory=dict)

    def __call__(self, config: DictConfig) -> None:
        """Runs trials of the study until it needs no more.

        Raises:
            RuntimeError: the command failed; the message is its error message.
        """
        os.chdir(self.working_directory)
        if self.tracking_uri:
            os.environ[TRACKING_VARIABLE] = self.tracking_uri
        os.environ["TERM"] = "dumb"  # workers share a terminal: progress lines, no table
        configure_logging()
        ignore_requests_before(self.earlier_requests)
        number = HydraConfig.get().job.num
        line = [word for word in self.line if not word.startswith(LAUNCHER_PREFIXES)]
        line += ["hydra/launcher=packed", *device_override(number, config.base.device)]
        try:
            run_search(line)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(str(end.code)) from None


def run_search(line: list[str]) -> None:
    """Runs `python -m sweeper -m` with these overrides in this process.

    Raises:
        SystemExit: the command failed or was interrupted.
    """
    GlobalHydra.instance().clear()  # a launcher may bring one from another process
    load_local_settings("sweep")
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        hydra = GlobalHydra.instance().hydra
        assert hydra
        hydra.multirun("sweep", _unexpected_job, line)


def launch_workers(launcher: Launcher, workers: int, config: SweepConfig) -> None:
    """Runs the workers of a study with another launcher, and waits for them.

    Raises:
        ConfigError: the study has no name, or a worker crashed.
    """
    if config.study.name is None:
        raise ConfigError("study.name: workers need a name to find their study")
    study = study_folder(Path(config.study.root), config.study.name, "study.name")
    study.mkdir(parents=True, exist_ok=True)
    log.info(f"study {study}  workers at once: {workers}")
    try:
        with graceful_stop(study, forward_to_workers=True):
            jobs = launcher.launch([[] for _ in range(workers)], initial_job_idx=0)
    except Exception as error:  # each library reports a crash differently
        raise ConfigError(
            f"a worker crashed ({cause(error)}); the same command continues the study"
        ) from error
    failures = dict.fromkeys(reason for job in jobs if (reason := _failure(job)))
    for reason in failures:
        print_lines(f"a worker ended early: {reason}", error=True)
    if failures:
        sys.exit(1)


def device_override(number: int, configured: str) -> list[str]:
    """The override that assigns a GPU to a worker, round-robin; empty with at most one GPU."""
    count = torch.cuda.device_count() if configured in ("auto", "cuda") else 0
    return [f"base.device=cuda:{number % count}"] if count > 1 else []


def _failure(job: JobReturn) -> str:
    return "" if job.status == JobStatus.COMPLETED else cause(job._return_value)


def _unexpected_job(config: DictConfig) -> None:
    raise AssertionError("the packed launcher runs trials, not jobs")
