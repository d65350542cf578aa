"""`python -m train`: trains one LoRA, without scores. Settings: conf/train.yaml, or kohya=."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from train.base import load_base
from train.checks import check_trial
from train.command import quiet, run, with_one_line_errors
from train.config import ConfigError, TrialConfig
from train.data import load_pictures
from train.kohya.command_line import expand
from train.trainer import Member, Trainer, TrainingError

log = logging.getLogger(__name__)


@dataclass
class TrainConfig(TrialConfig):
    """A trial's settings, where its files go, and what they are called."""

    output: str = "outputs/lora"
    name: str = "lora"


def check_train(config: TrainConfig) -> None:
    """Refuses impossible settings, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    check_trial(config)
    if not re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]*[^/\\:*?\"<>|\x00-\x1f. ]", config.name):
        raise ConfigError(
            f'name: {config.name!r} is to be a file name, with no folder and none of : * ? " < > |'
        )


def main(config: TrainConfig) -> None:
    """Trains, saving checkpoints into `output`; the same folder again continues the run."""
    pictures = load_pictures(config.data)
    log.info(pictures.report())
    base = load_base(config.base)
    trial = TrialConfig(**{f.name: getattr(config, f.name) for f in fields(TrialConfig)})
    total, spent, before = trial.training.epochs, 0.0, None
    for epoch in Trainer(base, pictures, [Member(trial, Path(config.output), config.name)]):
        for reason in epoch.failures.values():
            raise TrainingError(reason)
        saved = epoch.checkpoints[0]
        spent += epoch.seconds
        if before is None:  # what was there already took no time
            before = 0 if epoch.seconds else saved.epoch
        left = spent / max(1, saved.epoch - before) * (total - saved.epoch)
        log.info(
            f"epoch {saved.epoch}/{total}  loss {saved.train_loss:.4f}  "
            f"lr {saved.lr:.2e}  {left:.0f} s left  {saved.path}"
        )


def read_kohya() -> None:
    """Puts what kohya's files amount to into the command line, where there are any."""
    sys.argv[1:], notes = expand(sys.argv[1:])
    for note in notes:
        log.info(note)


if __name__ == "__main__":
    quiet()
    with_one_line_errors(read_kohya)
    run("train", TrainConfig, check_train, main)
