"""Activations: kept for the backward pass, or computed again in it."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from train.base import Base


def checkpoint_activations(base: Base, wanted: bool) -> None:
    """Whether the UNet keeps its activations for the backward pass, or computes them again.

    They are computed again inside of `loss.backward()`, with the adapters and the dropout of that
    moment: it must be called within the same `Adapters.using`. No other randomness is in it.
    """
    if wanted == base.unet.is_gradient_checkpointing:
        return
    if wanted:
        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        base.unet.enable_gradient_checkpointing(again)
    else:
        base.unet.disable_gradient_checkpointing()
