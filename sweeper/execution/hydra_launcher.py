"""The Hydra launcher: hands the trials of a sweep to `pack_runner` in packs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from sweeper.execution.jobs import Job


class PackedLauncher(Launcher):
    """Runs jobs that can share a pack together, in this process.

    Args: see conf/hydra/launcher/packed.yaml.
    """

    hydra_context: HydraContext
    config: DictConfig

    def __init__(self, pack: Any) -> None:
        self.pack = pack

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Iterable[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs the jobs of a sweep; takes the next one whenever a place in a pack gets free.

        Raises:
            ConfigError: settings that cannot be, or that are not of our own sweeper.
        """
        # Hydra imports its plugins at every start of any command
        from sweeper.execution.jobs import run_jobs

        run_jobs(self._jobs(job_overrides), self.pack)
        return []

    def _jobs(self, job_overrides: Iterable[Sequence[str]]) -> Iterator[Job]:
        from sweeper.execution.jobs import Job, job_config, preset_of

        preset = preset_of(self.config.hydra.runtime.choices)
        for overrides in job_overrides:
            config = job_config(self.hydra_context.config_loader, self.config, list(overrides))
            yield Job(config, list(overrides), preset)
