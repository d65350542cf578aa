"""Disk space: how much a trial needs, whether it is available, and what is deleted afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

from evaluate.images.probe_images import images_file
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.contenders import variant_sources
from evaluate.selection.policy import rank_of, select
from sweeper.config import ALL, BEST, PARETO, SweepConfig
from sweeper.tracking.trial_record import RUNNING, TrialRecord, load_records
from train.data.dataset import Dataset
from train.loop.schedule import schedule_of
from train.models.base_model import DTYPES, BaseModel
from train.resume.run_files import state_file

AVERAGE_BYTES = 4  # of averaged weights, per parameter
MARGIN = 100e6  # bytes that must stay free for sheets, MLflow's store and other programs
KEPT_BEST = 3  # least number of best checkpoints of a study that are kept, whichever their trials
STATE_BYTES = 3 * 4  # resume state, per parameter: weights and AdamW's two moments in fp32


def checkpoint_size(base: BaseModel, config: SweepConfig) -> float:
    """Size in bytes of a LoRA file with these settings."""
    width = DTYPES[config.training.save_precision].itemsize
    return float(base.adapters.parameter_count(config.network) * width)


def images_size(config: SweepConfig) -> float:
    """Maximum size in bytes of a checkpoint's probe images: uncompressed pixels."""
    return 3.0 * config.probes.count * config.data.resolution**2


def trial_size(base: BaseModel, dataset: Dataset, config: SweepConfig) -> float:
    """Bytes on disk that a trial with these settings needs while it runs."""
    numbers = base.adapters.parameter_count(config.network)
    state = numbers * (STATE_BYTES + (AVERAGE_BYTES if config.training.ema else 0))
    checkpoints = schedule_of(config, dataset).checkpoints
    return checkpoints * (checkpoint_size(base, config) + images_size(config)) + state


def low_space_reason(study: Path, base: BaseModel, dataset: Dataset, config: SweepConfig) -> str:
    """Why there is no space for one more trial with these settings; empty if there is."""
    running = [record for record in load_records(study) if record.state == RUNNING]
    files = (file for record in running for file in _written_in(record))
    written = sum(file.stat().st_size for file in files)
    needed = (len(running) + 1) * trial_size(base, dataset, config) - written + MARGIN
    free = shutil.disk_usage(study).free
    if free >= needed:
        return ""
    space = _format_size(needed)
    return f"{_format_size(free)} are free at {study}, and the trials may need {space} more"


def weights_in(folder: Path) -> list[Path]:
    """The checkpoints and resume states in a trial's folder."""
    return [file for file in folder.glob("*") if file.suffix in (".safetensors", ".pt")]


def _written_in(record: TrialRecord) -> list[Path]:
    images = (images_file(record.sheet(card.epoch)) for card in record.scorecards)
    return [*weights_in(record.folder), *(file for file in images if file.is_file())]


def describe_space(base: BaseModel, dataset: Dataset, config: SweepConfig, trials: int) -> str:
    """Describes the disk space that a study needs.

    Args:
        config: settings of the largest trial.
        trials: number of trials of the study.
    """
    checkpoint, running = checkpoint_size(base, config), trial_size(base, dataset, config)
    copies = (trials + 1) * checkpoint  # each trial's in MLflow, and best.safetensors
    kept = (trials + kept_best(config)) * (checkpoint + images_size(config))
    if config.study.keep_checkpoints != BEST:
        kept = trials * running
    return (
        f"checkpoints of at most {_format_size(checkpoint)}; a running trial needs "
        f"{_format_size(running)}, the finished study {_format_size(kept + copies)} "
        f"(study.keep_checkpoints={config.study.keep_checkpoints})"
    )


def kept_best(config: SweepConfig) -> int:
    """Number of best checkpoints of a study that are kept: all that may be in the final."""
    return max(KEPT_BEST, config.final.contenders)


def prune_checkpoints(record: TrialRecord, config: SweepConfig) -> None:
    """Deletes the checkpoints of a study's ended trials, except those to keep.

    Their probe images are deleted, too; scores and contact sheets stay. If another policy selects
    a deleted checkpoint, `sweeper.reproduce` can retrain it.

    Args:
        record: the trial that has just ended.
    """
    keep, policy = config.study.keep_checkpoints, config.selection
    if keep == ALL or record.selected is None:
        return
    state_file(record.folder).unlink(missing_ok=True)
    other_trials = [
        r for r in load_records(record.folder.parent.parent) if r.folder != record.folder
    ]
    ended = [r for r in (*other_trials, record) if r.finished and r.selected is not None]
    kept_files = {card.checkpoint for card in _candidates(ended, config)}
    for trial in ended:
        kept_epochs = {trial.selected}
        if keep == PARETO:
            kept_epochs |= {card.epoch for card in select(trial.scorecards, policy).front}
        deletable = {*weights_in(trial.folder)}  # nothing else, whatever the record names
        for card in trial.scorecards:
            if card.epoch not in kept_epochs and card.checkpoint in deletable - kept_files:
                card.checkpoint.unlink(missing_ok=True)
                images_file(trial.sheet(card.epoch)).unlink(missing_ok=True)


def _candidates(records: list[TrialRecord], config: SweepConfig) -> list[Scorecard]:
    """The best existing checkpoints of a study, whichever their trials, and those of variants."""
    policy, size = config.selection, config.final.contenders
    existing = [c for record in records for c in record.scorecards if c.checkpoint.is_file()]
    existing.sort(key=lambda card: rank_of(card, policy), reverse=True)
    best = existing[: kept_best(config)]
    if not size or (policy.strengths, policy.averages) == ([1.0], [1]):
        return best
    sources = {id(card) for card in variant_sources(existing, size)}
    averaged = [
        cards[max(0, end - max(policy.averages)) : end]
        for cards in (usable(record.scorecards) for record in records)
        for end, card in enumerate(cards, start=1)
        if id(card) in sources
    ]
    return [*best, *(card for cards in averaged for card in cards)]


def _format_size(count: float) -> str:
    """Bytes with a unit."""
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} GB"
