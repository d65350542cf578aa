"""`python -m train`: trains one LoRA, without scores. Settings: conf/train.yaml, or kohya=."""

from __future__ import annotations

import logging
import sys

from train.checks import check_train
from train.command import quiet, run, with_one_line_errors
from train.config import TrainConfig
from train.kohya.command_line import expand

log = logging.getLogger(__name__)


def read_kohya() -> None:
    """Puts what kohya's files amount to into the command line, where there are any."""
    sys.argv[1:], notes = expand(sys.argv[1:])
    for note in notes:
        log.info(note)


if __name__ == "__main__":
    quiet()
    with_one_line_errors(read_kohya)
    run("train", TrainConfig, check_train, "train.single:main")
