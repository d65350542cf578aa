"""Encodes prompts into the UNet's text conditioning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TextEncoding:
    """The text encoders of a base.

    SDXL (Podell et al. 2023) uses the states before the last layer of both its encoders,
    concatenated and not normalized, and the projected end-of-text state of the second. All others
    use the states of one layer of their encoder, after its final normalization.

    Args:
        tokenizers, encoders: one or two of each.
        clip_skip: the layer from the end (kohya's): 1 is the last one. SDXL ignores it.
    """

    def __init__(self, tokenizers: list[Any], encoders: list[nn.Module], clip_skip: int) -> None:
        self.tokenizers, self.encoders, self.clip_skip = tokenizers, encoders, clip_skip

    def __call__(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """(n, tokens, width) `encoder_hidden_states`; for SDXL also (n, d) `text_embeds`."""
        tokens = [tokenize(tokenizer, prompts).to(device) for tokenizer in self.tokenizers]
        if len(self.encoders) > 1:
            states = [
                encoder(ids, output_hidden_states=True)
                for encoder, ids in zip(self.encoders, tokens, strict=True)
            ]
            hidden = torch.cat([state.hidden_states[-2] for state in states], dim=-1)
            return {"encoder_hidden_states": hidden, "text_embeds": states[-1].text_embeds}
        (encoder,), (ids,) = self.encoders, tokens
        if self.clip_skip == 1:
            return {"encoder_hidden_states": encoder(ids)[0]}
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-self.clip_skip]
        # transformers 5 dropped the `text_model` level from CLIPTextModel
        core: Any = encoder.text_model if hasattr(encoder, "text_model") else encoder
        return {"encoder_hidden_states": core.final_layer_norm(hidden)}


def tokenize(tokenizer: Any, prompts: list[str]) -> Tensor:
    """n prompts as (n, tokens) ids, padded to the tokenizer's length."""
    tokens: Tensor = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return tokens
