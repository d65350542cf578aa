"""`python -m train`: trains one LoRA, without scores. Settings: conf/train.yaml, or kohya=."""

from __future__ import annotations

import logging

from train.checks import check_train
from train.command import run
from train.config import TrainConfig
from train.kohya.command_line import expand

log = logging.getLogger(__name__)


def read_kohya(overrides: list[str]) -> list[str]:
    """The overrides, with kohya's files replaced by what they amount to, where there are any."""
    expanded, notes = expand(overrides)
    for note in notes:
        log.info(note)
    return expanded


if __name__ == "__main__":
    run("train", TrainConfig, check_train, "train.single:main", translate=read_kohya)
