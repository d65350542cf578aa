"""The image and text encoder of the scores: an open_clip model."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evaluate.features.clip_source import load_encoder
from train.config.parsing import cause
from train.errors import ConfigError
from train.files.untrusted import UntrustedFileError
from train.puppets.networks.training import CLIP
from train.text.display import readable, shortened

EMBEDDED_FOLDER = CLIP
# images in one batch: what fits a GPU; on a CPU, a few seconds' work
BATCH, CPU_PIXELS = 64, 8 * 224 * 224
MIN_PATCHES = 7  # per side


class ClipEncoder:
    """A CLIP model: images and sentences as unit vectors in one space.

    Args:
        name: `puppets`, a folder of an open_clip model, `hf-hub:organization/model`,
            `model/pretrained tag`, or `model@file` with a .safetensors file of its weights.
        device: on which the model runs.

    Attributes:
        batch: number of images in one forward pass.

    Raises:
        ConfigError: there is no such model, or it cannot be downloaded.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        logging.disable(logging.INFO)  # open_clip logs every step of loading to the root logger
        try:
            loaded = load_encoder(name)
        except UntrustedFileError as error:
            raise ConfigError(f"scores.clip_model: {error}") from error
        except Exception as error:  # several libraries, without an exception of their own
            raise ConfigError(
                f"scores.clip_model: {shortened(name)} is not available: {readable(cause(error))}"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
        self.model: Any = loaded.model
        self.tokenizer = loaded.tokenizer
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (loaded.mean, loaded.std)
        )
        size = self.model.visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.scale = float(self.model.logit_scale.detach().exp())  # of cosines, for probabilities
        self.device = device
        fit = max(1, CPU_PIXELS // (self.size[0] * self.size[1]))
        self.batch = min(BATCH, fit) if device.type == "cpu" else BATCH
        self.model.to(device).requires_grad_(False).eval()

    def image_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W), 0 to 1 -> (N, d) unit vectors in float32."""
        with torch.inference_mode():
            parts = [self.model.encode_image(self._pixels(p)) for p in images.split(self.batch)]
        return functional.normalize(torch.cat(parts).float(), dim=-1).clone()

    def patch_features(self, images: Tensor, largest_side: int | None = None) -> Tensor:
        """(N, 3, H, W), 0 to 1 -> (N, P, d) unit vectors, one for each patch.

        A convolutional network has no patches, and its last levels are coarse: its patches are the
        positions of the last level that has at least 7x7.

        Args:
            largest_side: more patches per side are averaged to as many.
        """
        parts = [self._levels(part, [self._patch_level])[0] for part in images.split(self.batch)]
        grid = torch.cat(parts).float()
        if largest_side is not None and max(grid.shape[2:]) > largest_side:
            height, width = (min(side, largest_side) for side in grid.shape[2:])
            grid = functional.adaptive_avg_pool2d(grid, (height, width))
        return functional.normalize(grid.flatten(2).transpose(1, 2), dim=-1).clone()

    @cached_property
    def _patch_level(self) -> int:
        levels = self._levels(torch.zeros(1, 3, *self.size), None)
        sides = [min(MIN_PATCHES, *level.shape[2:]) for level in levels]
        return max(range(len(levels)), key=lambda i: (sides[i], i))

    @torch.inference_mode()
    def _levels(self, images: Tensor, indices: list[int] | None) -> list[Tensor]:
        """The features (N, d, h, w) of some levels of the image encoder, or of all."""
        output: dict[str, list[Tensor]] = self.model.visual.forward_intermediates(
            self._pixels(images), indices=indices, intermediates_only=True
        )
        return output["image_intermediates"]

    def text_features(self, texts: list[str]) -> Tensor:
        """N sentences -> (N, d) unit vectors in float32."""
        with torch.inference_mode():
            features = self.model.encode_text(self.tokenizer(texts).to(self.device))
        return functional.normalize(features.float(), dim=-1).clone()

    def _pixels(self, images: Tensor) -> Tensor:
        resized = functional.interpolate(
            images.to(self.device).float(), self.size, mode="bicubic", antialias=True
        )
        return (resized.clamp(0, 1) - self.mean) / self.std
