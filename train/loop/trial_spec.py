"""The specification of a trial in a pack, and its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.config.schema import TrialConfig
from train.resume.run_files import DEFAULT_NAME


@dataclass(frozen=True)
class TrialSpec:
    """One trial of a pack.

    Attributes:
        config: the original settings.
        folder: for its checkpoints and its state.
        name: prefix of its files.
        fallbacks: of `oom.FALLBACKS`, applied since memory ran out.
    """

    config: TrialConfig
    folder: Path
    name: str = DEFAULT_NAME
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """One saved LoRA file.

    Attributes:
        index: of the trial in the pack.
        train_loss: mean over the epochs since the previous checkpoint.
        lr: of the UNet's LoRA, after the last step.
        lr_text_encoder: of the text encoder's LoRA; None if there is none.
        pictures: number of images used since the previous checkpoint.
    """

    index: int
    path: Path
    epoch: int
    train_loss: float
    lr: float
    lr_text_encoder: float | None
    pictures: int
    last: bool
