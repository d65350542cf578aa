"""Captions, drawn anew each time a picture is shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from train.data.images.image import TrainingImage


def sample_captions(
    pictures: Sequence[TrainingImage], dropout: float, drops: bool, random: torch.Generator
) -> list[str]:
    """What is said of the pictures of a batch: dropped, or with their parts in another order.

    Args:
        dropout: how often a caption is dropped where the subset does not say.
        drops: whether any picture of the data set can lose its caption.
        random: a member's stream; untouched where there is nothing to draw.
    """
    captions = [_shuffled(picture, random) for picture in pictures]
    if drops:
        drawn = torch.rand(len(pictures), generator=random).tolist()
        own = [picture.subset.caption_dropout for picture in pictures]
        captions = [
            "" if value < (dropout if rate is None else rate) else caption
            for value, rate, caption in zip(drawn, own, captions, strict=True)
        ]
    return captions


def _shuffled(picture: TrainingImage, random: torch.Generator) -> str:
    if not picture.subset.shuffle_caption:
        return picture.caption
    parts = [part.strip() for part in picture.caption.split(",")]
    keep = picture.subset.keep_tokens
    order = torch.randperm(max(0, len(parts) - keep), generator=random).tolist()
    return ", ".join(parts[:keep] + [parts[keep + k] for k in order])
