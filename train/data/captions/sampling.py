"""Samples captions each time an image is used."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from train.data.images.image import TrainingImage


def sample_captions(
    images: Sequence[TrainingImage], dropout: float, drops: bool, random: torch.Generator
) -> list[str]:
    """The captions of a batch, after dropout and shuffling.

    Args:
        dropout: probability that a caption is dropped, for subsets without their own.
        drops: whether any image of the dataset can lose its caption.
        random: the trial's generator; not used if there is nothing to sample.
    """
    captions = [_shuffled(image, random) for image in images]
    if drops:
        values = torch.rand(len(images), generator=random).tolist()
        rates = [image.subset.caption_dropout for image in images]
        captions = [
            "" if value < (dropout if rate is None else rate) else caption
            for value, rate, caption in zip(values, rates, captions, strict=True)
        ]
    return captions


def _shuffled(image: TrainingImage, random: torch.Generator) -> str:
    if not image.subset.shuffle_caption:
        return image.caption
    parts = [part.strip() for part in image.caption.split(",")]
    keep = image.subset.keep_tokens
    order = torch.randperm(max(0, len(parts) - keep), generator=random).tolist()
    return ", ".join(parts[:keep] + [parts[keep + k] for k in order])
