"""`python -m train`: trains one LoRA, without scores. Settings: conf/train.yaml."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path

from train.base import load_base
from train.checks import check_trial
from train.command import run
from train.config import TrialConfig
from train.data import load_pictures
from train.trainer import Member, Trainer, TrainingError

log = logging.getLogger(__name__)


@dataclass
class TrainConfig(TrialConfig):
    """A trial's settings, and where its files go."""

    output: str = "outputs/lora"


def main(config: TrainConfig) -> None:
    """Trains, saving checkpoints into `output`; the same folder again continues the run."""
    pictures = load_pictures(config.data)
    trial = TrialConfig(**{f.name: getattr(config, f.name) for f in fields(TrialConfig)})
    log.info(pictures.report(trial))
    base = load_base(config.base)
    total, spent, before = trial.training.epochs, 0.0, None
    for epoch in Trainer(base, pictures, [Member(trial, Path(config.output))]):
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


if __name__ == "__main__":
    run("train", TrainConfig, check_trial, main)
