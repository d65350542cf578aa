"""The Hydra launcher that stands for packs: the sweeper trains its trials together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from train.errors import ConfigError


class PackedLauncher(Launcher):
    """Says how many trials the sweeper trains at once. It launches nothing itself.

    Args: see conf/hydra/launcher/packed.yaml.
    """

    def __init__(self, pack: Any) -> None:
        self.pack = pack

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Nothing to set up: the sweeper runs the trials."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Called by other sweepers only.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("hydra/launcher=packed: goes with hydra/sweeper=optuna alone")
