"""Finds the LoRA file from which a run continues when its state is damaged."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from train.errors import CheckpointError
from train.lora.adapter import Adapter
from train.lora.checkpoint import load_checkpoint
from train.lora.injection import LoRAInjector
from train.system.outage import outage

log = logging.getLogger(__name__)


def last_checkpoint(
    files: Mapping[int, Path], adapters: LoRAInjector
) -> tuple[int, Adapter] | None:
    """Returns the latest epoch whose LoRA file can be read, and its weights; None if none can.

    Args:
        files: epoch -> the path of its LoRA file.
    """
    for epoch, file in sorted(files.items(), reverse=True):
        if not file.is_file():
            continue
        try:
            return epoch, load_checkpoint(file, adapters)
        except CheckpointError as error:
            if outage(error):
                raise
            log.warning(f"{error}; an earlier one is used")
    return None
