"""Disk space: what a trial needs, whether there is room for it, and what is deleted at its end."""

from __future__ import annotations

import shutil
from pathlib import Path

from evaluate.config import PolicyConfig
from evaluate.images.probe_images import images_file
from evaluate.scorecard import Scorecard
from evaluate.selection.policy import rank_of, select
from sweeper.config import ALL, BEST, PARETO, SweepConfig
from sweeper.tracking.trial_record import RUNNING, TrialRecord, load_records
from train.data.dataset import Dataset
from train.loop.schedule import schedule_of
from train.models.base_model import DTYPES, BaseModel
from train.resume.run_files import state_file

MARGIN = 100e6  # bytes that stay free: sheets, MLflow's store, other programs
KEPT_BEST = 3  # best checkpoints of a study that are kept, of whichever trials
STATE_BYTES = 3 * 4  # bytes a number in the state to continue from: weights and AdamW's two, fp32


def checkpoint_size(base: BaseModel, config: SweepConfig) -> float:
    """Bytes of one LoRA file of these settings."""
    width = DTYPES[config.training.save_precision].itemsize
    return float(base.adapters.parameter_count(config.network) * width)


def images_size(config: SweepConfig) -> float:
    """Bytes that the probe images of a checkpoint take at most: those of pixels as they are."""
    return 3.0 * config.probes.count * config.data.resolution**2


def trial_size(base: BaseModel, dataset: Dataset, config: SweepConfig) -> float:
    """Bytes that a trial of these settings takes while it runs."""
    state = base.adapters.parameter_count(config.network) * STATE_BYTES
    checkpoints = schedule_of(config, dataset).checkpoints
    return checkpoints * (checkpoint_size(base, config) + images_size(config)) + state


def low_space_reason(study: Path, base: BaseModel, dataset: Dataset, config: SweepConfig) -> str:
    """Why there is no room for one more trial of these settings; empty: there is."""
    running = [record for record in load_records(study) if record.state == RUNNING]
    files = (file for record in running for file in _written_in(record))
    written = sum(file.stat().st_size for file in files)
    needed = (len(running) + 1) * trial_size(base, dataset, config) - written + MARGIN
    free = shutil.disk_usage(study).free
    if free >= needed:
        return ""
    return f"{_format_size(free)} are free at {study}, and the trials may take {_format_size(needed)} more"


def weights_in(folder: Path) -> list[Path]:
    """The checkpoints and states in a trial's folder."""
    return [file for file in folder.glob("*") if file.suffix in (".safetensors", ".pt")]


def _written_in(record: TrialRecord) -> list[Path]:
    images = (images_file(record.sheet(card.epoch)) for card in record.scorecards)
    return [*weights_in(record.folder), *(file for file in images if file.is_file())]


def describe_space(base: BaseModel, dataset: Dataset, config: SweepConfig, trials: int) -> str:
    """The disk space of a study, in words.

    Args:
        config: of a trial that takes the most room.
        trials: of the study.
    """
    checkpoint, running = checkpoint_size(base, config), trial_size(base, dataset, config)
    copies = (
        trials + 1
    ) * checkpoint  # MLflow's of each trial's selected one, and best.safetensors
    kept = (trials + KEPT_BEST) * (checkpoint + images_size(config))
    if config.study.keep_checkpoints != BEST:
        kept = trials * running
    return (
        f"checkpoints of at most {_format_size(checkpoint)}; a trial at work takes {_format_size(running)}, the study "
        f"{_format_size(kept + copies)} in the end "
        f"(study.keep_checkpoints={config.study.keep_checkpoints})"
    )


def prune_checkpoints(record: TrialRecord, policy: PolicyConfig, keep: str) -> None:
    """Deletes the checkpoints of a study's ended trials, but for those that are kept.

    Their probe images go with them; scores and contact sheets stay. Another policy can select a
    checkpoint that is gone: it is trained again by `sweeper.reproduce`.

    Args:
        record: of the trial that has just ended.
    """
    if keep == ALL or record.selected is None:
        return
    state_file(record.folder).unlink(missing_ok=True)
    others = [r for r in load_records(record.folder.parent.parent) if r.folder != record.folder]
    ended = [r for r in (*others, record) if r.finished and r.selected is not None]
    kept = {card.checkpoint for card in _best_checkpoints(ended, policy)}
    for trial in ended:
        kept_epochs = {trial.selected}
        if keep == PARETO:
            kept_epochs |= {card.epoch for card in select(trial.scorecards, policy).front}
        deletable = {*weights_in(trial.folder)}  # and nothing else, whatever the record says
        for card in trial.scorecards:
            if card.epoch not in kept_epochs and card.checkpoint in deletable - kept:
                card.checkpoint.unlink(missing_ok=True)
                images_file(trial.sheet(card.epoch)).unlink(missing_ok=True)


def _best_checkpoints(records: list[TrialRecord], policy: PolicyConfig) -> list[Scorecard]:
    """The best checkpoints of a study that still exist, of whichever trials."""
    existing = [c for record in records for c in record.scorecards if c.checkpoint.is_file()]
    return sorted(existing, key=lambda card: rank_of(card, policy), reverse=True)[:KEPT_BEST]


def _format_size(count: float) -> str:
    """Bytes with a unit."""
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} GB"
