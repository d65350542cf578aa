"""Finds a loss that is NaN or infinite, and says what the likely cause is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NAN_CHECK_EVERY = 16  # steps between checks of a GPU's losses, which wait for the GPU
MAX_SHOWN_LOSSES = 5  # losses before it that the message has


def first_not_finite(losses: Sequence[Tensor]) -> int | None:
    """The index of the first loss that is not finite; None: the latest are finite.

    Args:
        losses: scalars of the running epoch; all but the last `NAN_CHECK_EVERY` were checked.
    """
    if not losses or math.isfinite(float(torch.stack([*losses[-NAN_CHECK_EVERY:]]).sum())):
        return None
    values = torch.stack([*losses]).tolist()
    return next((i for i, loss in enumerate(values) if not math.isfinite(loss)), None)


def not_finite_message(
    epoch: int,
    batch: int,
    batches: int,
    losses_before: Sequence[float],
    learning_rate: float,
    untrained_batches: int,
    fp16: bool,
) -> str:
    """What happened, where, and why it probably did.

    Args:
        epoch, batch: where the loss is not finite, counted from 1.
        batches: of the epoch.
        losses_before: the finite losses before it.
        learning_rate: at that step.
        untrained_batches: batches of this epoch before the optimizer's first step.
        fp16: whether the base computes in fp16.
    """
    if batch <= untrained_batches:
        cause = "the base or an image, since nothing is trained yet"
    else:
        cause = f"a learning rate that is too high ({learning_rate:g})"
    if fp16:
        cause += ", or numbers too large for fp16 (bf16 and fp32 have room for them)"
    before = ", ".join(f"{loss:.4g}" for loss in losses_before[-MAX_SHOWN_LOSSES:])
    return (
        f"the loss is NaN or infinite in epoch {epoch}, at batch {batch} of {batches} "
        f"(before it: {before or 'nothing'}); the likely cause is {cause}"
    )
