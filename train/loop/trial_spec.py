"""What a trial of a pack is asked for, and what it saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.config.schema import TrialConfig
from train.resume.run_files import NAME


@dataclass(frozen=True)
class TrialSpec:
    """One trial of a pack.

    Attributes:
        config: as it was asked for.
        folder: for its checkpoints and its state.
        name: what its files begin with.
        remedies: of `oom.FALLBACKS`, applied to it since memory ran out.
    """

    config: TrialConfig
    folder: Path
    name: str = NAME
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """One saved LoRA file.

    Attributes:
        member: index of the trial in the pack.
        train_loss: mean over the epochs since the checkpoint before.
        lr: of the UNet's LoRA, after the last step.
        lr_text_encoder: of the text encoder's LoRA; None: there is none.
        pictures: shown since the checkpoint before.
    """

    member: int
    path: Path
    epoch: int
    train_loss: float
    lr: float
    lr_text_encoder: float | None
    pictures: int
    last: bool
