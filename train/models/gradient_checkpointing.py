"""Gradient checkpointing: activations are recomputed in the backward pass instead of stored."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from train.models.base_model import BaseModel


def use_gradient_checkpointing(base: BaseModel, enabled: bool) -> None:
    """Enables or disables gradient checkpointing of the networks.

    Activations are recomputed within `loss.backward()`, with the adapters and the dropout of that
    moment: call it within the same `LoRAInjector.activated`. No other randomness is involved.
    """
    if enabled == base.unet.is_gradient_checkpointing:
        return
    recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    if enabled:
        base.unet.enable_gradient_checkpointing(recompute)
    else:
        base.unet.disable_gradient_checkpointing()
    for encoder in base.text_encoders:
        for layer in encoder.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                # it recomputes in training mode only; its submodules stay in eval mode
                layer.training = layer.gradient_checkpointing = enabled
                layer._gradient_checkpointing_func = recompute
