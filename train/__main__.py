"""`python -m train`: trains one LoRA, without scores. Settings: conf/train.yaml, or kohya=."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from train.base import Base, load_base
from train.checks import ADAPT, check_choice, check_trial
from train.command import quiet, run, with_one_line_errors
from train.config import ConfigError, TrialConfig, trial_of
from train.course import course_of, report
from train.data import Pictures, load_pictures
from train.encoding import start_in_utf8
from train.interrupt import in_good_order
from train.kohya.command_line import expand
from train.memory import adapted, advice, ran_out, with_next_remedy
from train.processes import Processes, started_processes
from train.state import NAME, forget
from train.trainer import Member, Trainer, TrainingError

log = logging.getLogger(__name__)
RESUME = AUTO, OFF = "auto", "off"


@dataclass
class TrainConfig(TrialConfig):
    """A trial's settings, where its files go, and whether what is there is continued.

    Attributes:
        name: of the files.
    """

    output: str = "outputs/lora"
    name: str = NAME
    resume: str = AUTO


def check_train(config: TrainConfig) -> None:
    """Refuses impossible settings, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    check_trial(config)
    check_choice("resume", config.resume, RESUME)
    if not re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]*[^/\\:*?\"<>|\x00-\x1f. ]", config.name):
        raise ConfigError(
            f'name: {config.name!r} is to be a file name, with no folder and none of : * ? " < > |'
        )


def main(config: TrainConfig) -> None:
    """Trains, saving checkpoints into `output`; the same folder again continues the run."""
    processes = started_processes(config.base.device)
    if not processes.main:
        logging.disable(logging.WARNING)
    if processes.count > 1 and config.training.oom == ADAPT:
        raise TrainingError("training.oom=adapt: goes with one process alone")
    trial = trial_of(config)
    folder = Path(config.output)
    if config.resume == OFF and processes.main and (replaced := forget(folder, config.name)):
        log.info(f"resume=off: begins anew; {len(replaced)} files of the run in {folder} are gone")
    processes.wait()
    pictures = load_pictures(config.data)
    log.info(report(trial, pictures, processes.count))
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


def read_kohya() -> None:
    """Puts what kohya's files amount to into the command line, where there are any."""
    sys.argv[1:], notes = expand(sys.argv[1:])
    for note in notes:
        log.info(note)


if __name__ == "__main__":
    start_in_utf8()
    quiet()
    with_one_line_errors(read_kohya)
    run("train", TrainConfig, check_train, main)
