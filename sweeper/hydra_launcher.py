"""The Hydra launcher that selects packs: the sweeper trains its trials together in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from train.errors import ConfigError


class PackedLauncher(Launcher):
    """Configures how many trials the sweeper trains at once. It launches nothing itself.

    Args: see conf/hydra/launcher/packed.yaml.
    """

    def __init__(self, pack: Any) -> None:
        self.pack = pack

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Does nothing: the sweeper runs the trials."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Refuses to launch jobs. Only other sweepers call this.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("hydra/launcher=packed: only works with hydra/sweeper=optuna")
