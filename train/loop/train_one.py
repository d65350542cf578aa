"""Trains one LoRA, without scores, as `python -m train` does."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from train.cli.signals import in_good_order
from train.config.schema import TrainConfig, trial_of
from train.data.dataset import Dataset, load_dataset
from train.data.folders.wording import agreed, counted
from train.loop.construction_checks import check_construction
from train.loop.schedule import report, schedule_of
from train.loop.trainer import Trainer, TrainingError, TrialSpec
from train.models.base_model import BaseModel, load_base
from train.resume.run_files import forget
from train.system.distributed import ProcessGroup, started_processes
from train.system.oom import advice, apply_fallbacks, is_oom, with_next_fallback
from train.text.terminal import log_lines
from train.validation import DEGRADE, RESUME_OFF

log = logging.getLogger(__name__)


def main(config: TrainConfig) -> None:
    """Trains, saving checkpoints into `output`; the same folder again continues the run."""
    processes = started_processes(config.base.device)
    if not processes.main:
        logging.disable(logging.WARNING)
    if processes.count > 1 and config.training.on_oom == DEGRADE:
        raise TrainingError("training.on_oom=degrade: goes with one process alone")
    trial = trial_of(config)
    folder = Path(config.output)
    if config.resume == RESUME_OFF and processes.main and (replaced := forget(folder, config.name)):
        log.info(
            f"resume=off: begins anew; {counted(len(replaced), 'file')} of the run in {folder} "
            f"{agreed(len(replaced), 'is', 'are')} gone"
        )
    processes.wait()
    check_construction(config)
    pictures = load_dataset(config.data)
    log_lines(log, report(trial, pictures, processes.count))
    base = load_base(config.base)
    member: TrialSpec | None = TrialSpec(trial, folder, config.name)
    while member is not None:
        member = _train(base, pictures, member, processes)
    processes.wait()


def _train(
    base: BaseModel, pictures: Dataset, member: TrialSpec, processes: ProcessGroup
) -> TrialSpec | None:
    """Trains to the end; or, where memory runs out and may be saved, returns how to go on.

    Raises:
        TrainingError: memory has run out, or the loss is no number any more.
    """
    config = apply_fallbacks(member.config, member.remedies)
    course = schedule_of(config, pictures, processes.count)
    spent, before = 0.0, None
    try:
        with in_good_order(processes.main) as asked:
            if member.remedies:
                log.info(course.describe(config.training, processes.count))
            for epoch in Trainer(base, pictures, [member], processes, asked):
                for reason in epoch.failures.values():
                    raise TrainingError(reason)
                saved = epoch.checkpoints[0]
                spent += epoch.seconds
                if before is None:  # what was there already took no time
                    before = 0 if epoch.seconds else saved.epoch
                left = spent / max(1, saved.epoch - before) * (course.epochs - saved.epoch)
                log.info(
                    f"epoch {saved.epoch}/{course.epochs}  loss {saved.train_loss:.4f}  "
                    f"lr {saved.lr:.2e}  {left:.0f} s left  {saved.path}"
                )
    except (RuntimeError, MemoryError) as error:
        if not is_oom(error):
            raise
        remedies = with_next_fallback(member.config, member.remedies)
        if remedies is None:
            raise TrainingError(advice(config)) from error
        return replace(member, remedies=remedies)
    return None
