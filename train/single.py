"""Trains one LoRA, without scores, as `python -m train` does."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from train.base import Base, load_base
from train.checks import ADAPT, RESUME_OFF
from train.config import TrainConfig, trial_of
from train.construction import check_construction
from train.course import course_of, report
from train.data.loading import Pictures, load_pictures
from train.data.wording import agreed, counted
from train.interrupt import in_good_order
from train.memory import adapted, advice, ran_out, with_next_remedy
from train.processes import Processes, started_processes
from train.run_files import forget
from train.terminal import log_lines
from train.trainer import Member, Trainer, TrainingError

log = logging.getLogger(__name__)


def main(config: TrainConfig) -> None:
    """Trains, saving checkpoints into `output`; the same folder again continues the run."""
    processes = started_processes(config.base.device)
    if not processes.main:
        logging.disable(logging.WARNING)
    if processes.count > 1 and config.training.oom == ADAPT:
        raise TrainingError("training.oom=adapt: goes with one process alone")
    trial = trial_of(config)
    folder = Path(config.output)
    if config.resume == RESUME_OFF and processes.main and (replaced := forget(folder, config.name)):
        log.info(
            f"resume=off: begins anew; {counted(len(replaced), 'file')} of the run in {folder} "
            f"{agreed(len(replaced), 'is', 'are')} gone"
        )
    processes.wait()
    check_construction(config)
    pictures = load_pictures(config.data)
    log_lines(log, report(trial, pictures, processes.count))
    base = load_base(config.base)
    member: Member | None = Member(trial, folder, config.name)
    while member is not None:
        member = _train(base, pictures, member, processes)
    processes.wait()


def _train(base: Base, pictures: Pictures, member: Member, processes: Processes) -> Member | None:
    """Trains to the end; or, where memory runs out and may be saved, returns how to go on.

    Raises:
        TrainingError: memory has run out, or the loss is no number any more.
    """
    config = adapted(member.config, member.remedies)
    course = course_of(config, pictures, processes.count)
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
        if not ran_out(error):
            raise
        remedies = with_next_remedy(member.config, member.remedies)
        if remedies is None:
            raise TrainingError(advice(config)) from error
        return replace(member, remedies=remedies)
    return None
