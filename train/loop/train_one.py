"""`python -m train`: trains one LoRA, without scores."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from train.cli.signals import graceful_stop
from train.config.schema import TrainConfig, trial_of
from train.config_checks import DEGRADE, RESUME_OFF
from train.data.dataset import Dataset, load_dataset
from train.data.folders.wording import count_noun, plural_form
from train.loop.construction_checks import check_construction
from train.loop.schedule import schedule_of, training_report
from train.loop.trainer import Trainer, TrainingError, TrialSpec
from train.models.base_model import BaseModel, load_base
from train.models.model_files import check_location
from train.resume.run_files import delete_run_files
from train.system.distributed import ProcessGroup, connect_processes
from train.system.oom import advice, apply_fallbacks, is_oom, with_next_fallback
from train.text.terminal import log_lines

log = logging.getLogger(__name__)


def main(config: TrainConfig) -> None:
    """Trains and saves checkpoints into `output`; a second start there continues the run."""

    processes = connect_processes(config.base.device)
    if not processes.main:
        logging.disable(logging.WARNING)
    if processes.count > 1 and config.training.on_oom == DEGRADE:
        raise TrainingError("training.on_oom=degrade: needs a single process")
    trial = trial_of(config)
    folder = Path(config.output)
    if (
        config.resume == RESUME_OFF
        and processes.main
        and (replaced := delete_run_files(folder, config.name))
    ):
        log.info(
            f"resume=off: starts over; {count_noun(len(replaced), 'file')} of the run in {folder} "
            f"{plural_form(len(replaced), 'was', 'were')} deleted"
        )
    processes.wait()
    check_construction(config)
    check_location(config.base.path)
    dataset = load_dataset(config.data)
    log_lines(log, training_report(trial, dataset, processes.count))
    base = load_base(config.base)
    spec: TrialSpec | None = TrialSpec(trial, folder, config.name)
    while spec is not None:
        spec = _train(base, dataset, spec, processes)
    processes.wait()


def _train(
    base: BaseModel, dataset: Dataset, spec: TrialSpec, processes: ProcessGroup
) -> TrialSpec | None:
    """Trains to the end; if memory runs out, returns the spec with the next fallback.

    Raises:
        TrainingError: memory has run out without a fallback, or the loss is not finite.
    """
    config = apply_fallbacks(spec.config, spec.fallbacks)
    schedule = schedule_of(config, dataset, processes.count)
    elapsed, first_epoch = 0.0, None
    try:
        with graceful_stop(processes.main) as should_stop:
            if spec.fallbacks:
                log.info(schedule.describe(config.training, processes.count))
            for epoch in Trainer(base, dataset, [spec], processes, should_stop):
                for reason in epoch.failures.values():
                    raise TrainingError(reason)
                saved = epoch.checkpoints[0]
                elapsed += epoch.seconds
                if first_epoch is None:  # epochs that were already trained took no time
                    first_epoch = 0 if epoch.seconds else saved.epoch
                per_epoch = elapsed / max(1, saved.epoch - first_epoch)
                seconds_left = per_epoch * (schedule.epochs - saved.epoch)
                log.info(
                    f"epoch {saved.epoch}/{schedule.epochs}  loss {saved.train_loss:.4f}  "
                    f"lr {saved.lr:.2e}  {seconds_left:.0f} s left  {saved.path}"
                )
    except (RuntimeError, MemoryError) as error:
        if not is_oom(error):
            raise
        fallbacks = with_next_fallback(spec.config, spec.fallbacks)
        if fallbacks is None:
            raise TrainingError(advice(config)) from error
        return replace(spec, fallbacks=fallbacks)
    return None
