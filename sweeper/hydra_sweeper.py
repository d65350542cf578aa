"""The class that Hydra instantiates as its sweeper; sweeper/execution/driver.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Runs trials that Optuna proposes.

    Args: see conf/hydra/sweeper/optuna.yaml.
    """

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(
        self, n_trials: int | None, workers: int, objective: str, seed: int, sampler: DictConfig
    ) -> None:
        self.n_trials, self.workers = n_trials, workers
        self.objective, self.seed = objective, seed
        self.sampler: dict[str, Any] = OmegaConf.to_container(sampler, resolve=True)  # type: ignore[assignment]

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Stores what Hydra passes before a sweep, and instantiates the launcher."""
        # imported here, as in Hydra's own sweepers: Plugins imports this module
        from hydra.core.plugins import Plugins

        from sweeper.execution.workers import Worker
        from sweeper.stop_request import stop_request_times

        self.hydra_context, self.config = hydra_context, config
        overrides = config.hydra.overrides
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context,
            task_function=Worker(
                [*overrides.hydra, *overrides.task],
                earlier_requests=stop_request_times(Path(config.study.root)),
            ),
            config=config,
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs or continues the study."""
        # imported here: every Hydra command imports its plugins when it starts, and only a sweep
        # needs Optuna, MLflow and torch
        from sweeper.execution.driver import sweep
        from sweeper.execution.search_setup import HydraSweep

        hydra = HydraSweep(
            self.hydra_context, self.config, self.launcher, self.n_trials, self.workers,
            self.objective, self.seed, self.sampler,
        )  # fmt: skip
        sweep(hydra, arguments)
