"""Disk: what a trial takes, whether there is room for it, and what is kept of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from evaluate.choice.policy import select
from evaluate.config import PolicyConfig
from sweeper.config import ALL, BEST, PARETO, SweepConfig
from sweeper.recording.record import Record
from train.base import DTYPES, Base
from train.course import course_of
from train.data import Pictures
from train.state import state_file

MARGIN = 100e6  # bytes that stay free: sheets, MLflow's store, other programs
STATES = 3 * 4  # bytes a number in the state to continue from: weights and AdamW's two, fp32


def checkpoint_size(base: Base, config: SweepConfig) -> float:
    """Bytes of one LoRA file of these settings."""
    width = DTYPES[config.training.save_precision].itemsize
    return float(base.adapters.numbers(config.network) * width)


def trial_size(base: Base, pictures: Pictures, config: SweepConfig) -> float:
    """Bytes that a trial of these settings takes while it runs."""
    state = base.adapters.numbers(config.network) * STATES
    checkpoints = course_of(config, pictures).checkpoints
    return checkpoints * checkpoint_size(base, config) + state


def too_full(root: Path, base: Base, pictures: Pictures, config: SweepConfig) -> str:
    """Why there is no room for a trial of these settings; empty: there is."""
    free, wanted = shutil.disk_usage(root).free, trial_size(base, pictures, config) + MARGIN
    if free >= wanted:
        return ""
    return f"{_size(free)} are free at {root}, and a trial may take {_size(wanted)}"


def describe(base: Base, pictures: Pictures, config: SweepConfig, trials: int) -> str:
    """What a study of so many trials with about these settings takes, in words."""
    one, running = checkpoint_size(base, config), trial_size(base, pictures, config)
    kept = trials * (one if config.study.keep == BEST else running)
    return f"checkpoints of {_size(one)}; {_size(kept)} in the end (study.keep={config.study.keep})"


def thin_out(record: Record, policy: PolicyConfig, keep: str) -> None:
    """Deletes the checkpoints of a trial that has ended, but for those that are kept.

    Scores and contact sheets stay. Another policy can select a checkpoint that is gone: it is
    trained again by `sweeper.reproduce`.
    """
    if keep == ALL or record.selected is None:
        return
    kept = {record.selected}
    if keep == PARETO:
        kept |= {card.epoch for card in select(record.scorecards, policy).front}
    for card in record.scorecards:
        if card.epoch not in kept:
            card.checkpoint.unlink(missing_ok=True)
    state_file(record.folder).unlink(missing_ok=True)


def _size(count: float) -> str:
    """Bytes as a person says them."""
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} GB"
