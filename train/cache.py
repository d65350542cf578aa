"""The pictures as the UNet sees them: encoded once a process, shared by all trials."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from train.base import Base
from train.data import Pictures
from train.loss import encode_latents


@dataclass(frozen=True)
class EncodedPictures:
    """Latents and text embeddings of the training pictures, repeats left to `owners`.

    Attributes:
        mean, std: (n, c, h, w), of the latents' distribution.
        captions, conditioning: n, and after them the empty caption.
        sizes: (n, 6), of `Base.size_conditioning`.
        owners: the pictures' indices, each as often as an epoch shows it.
        prior: (n,) bool, which of them are regularisation pictures; None: none.
    """

    mean: Tensor
    std: Tensor
    captions: list[str]
    conditioning: dict[str, Tensor]
    sizes: Tensor
    owners: list[int]
    prior: Tensor | None = None

    @property
    def empty(self) -> int:
        """The index of the empty caption."""
        return len(self.captions) - 1


@lru_cache(maxsize=2)
def encode_pictures(base: Base, pictures: Pictures, resolution: int) -> EncodedPictures:
    """Encodes the training pictures once a process, for all trials."""
    encoded = [
        encode_latents(base, picture.pixels(resolution).unsqueeze(0))
        for picture in pictures.training
    ]
    captions = [*(picture.caption for picture in pictures.training), ""]
    with torch.no_grad(), base.adapters.using([]):
        conditioning = base.encode_text(captions)
    return EncodedPictures(
        mean=torch.cat([mean for mean, _ in encoded]).cpu(),
        std=torch.cat([std for _, std in encoded]).cpu(),
        captions=captions,
        conditioning=conditioning,
        sizes=torch.tensor([picture.sizes(resolution) for picture in pictures.training]),
        owners=list(range(len(pictures.training))) * pictures.repeats,
    )
