"""`python -m train`: trains one LoRA, without scores. Settings: conf/train.yaml, or kohya=."""

from __future__ import annotations

import logging
from pathlib import Path

from train.cli.app import run
from train.config.schema import TrainConfig
from train.config_checks import check_train
from train.kohya.command_line import expand
from train.kohya.output_paths import check_replaced

log = logging.getLogger(__name__)


class CommandLine:
    """The command line, with kohya's files replaced by their overrides, if there are any.

    Attributes:
        keys_from_files: the settings that the files give, and not the user.
    """

    def __init__(self) -> None:
        self.keys_from_files: set[str] = set()

    def read(self, overrides: list[str]) -> list[str]:
        """The overrides; notes about the files are logged."""
        expanded, notes = expand(overrides)
        for note in notes:
            log.info(note)
        self.keys_from_files = {
            line.partition("=")[0] for line in expanded if line not in overrides
        }
        return expanded

    def check(self, config: TrainConfig) -> None:
        """Rejects impossible settings, and files that would replace another run's files."""
        check_train(config)
        if self.keys_from_files & {"output", "name"}:
            check_replaced(Path(config.output), config.name)


if __name__ == "__main__":
    line = CommandLine()
    run("train", TrainConfig, line.check, "train.loop.train_one:main", translate=line.read)
