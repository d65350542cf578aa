"""Captions: read from files, and drawn anew each time a picture is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from train.data.picture import DataError, Picture


def read_caption(file: Path) -> str:
    """The caption in a file, in one line; empty where there is no file.

    Raises:
        DataError: not a text in UTF-8.
    """
    try:
        return " ".join(file.read_text(encoding="utf-8-sig").split()) if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: caption is not UTF-8 text") from error


def draw_captions(
    pictures: Sequence[Picture], dropout: float, drops: bool, random: torch.Generator
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


def _shuffled(picture: Picture, random: torch.Generator) -> str:
    if not picture.subset.shuffle_caption:
        return picture.caption
    parts = [part.strip() for part in picture.caption.split(",")]
    keep = picture.subset.keep_tokens
    order = torch.randperm(max(0, len(parts) - keep), generator=random).tolist()
    return ", ".join(parts[:keep] + [parts[keep + k] for k in order])
