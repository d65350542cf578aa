"""Activations: kept for the backward pass, or computed again in it."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from train.models.base_model import BaseModel


def use_gradient_checkpointing(base: BaseModel, wanted: bool) -> None:
    """Whether the networks keep their activations for the backward pass, or compute them again.

    They are computed again inside of `loss.backward()`, with the adapters and the dropout of that
    moment: it must be called within the same `LoRAInjector.using`. No other randomness is in it.
    """
    if wanted == base.unet.is_gradient_checkpointing:
        return
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    if wanted:
        base.unet.enable_gradient_checkpointing(again)
    else:
        base.unet.disable_gradient_checkpointing()
    for encoder in base.text_encoders:
        for layer in encoder.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                # in training alone it computes again; what is in it stays as it is, without dropout
                layer.training = layer.gradient_checkpointing = wanted
                layer._gradient_checkpointing_func = again
