"""The image and text encoder of the scores: an open_clip model."""

from __future__ import annotations

import logging

import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from train.config import EMBEDDED, ConfigError
from train.paths import expanded
from train.puppets.training import CLIP

EMBEDDED_FOLDER = CLIP
# pictures in one batch: what a GPU takes; on a CPU as many as are read in some seconds
BATCH, CPU_PIXELS = 64, 8 * 224 * 224


class Encoder:
    """A CLIP: pictures and sentences as unit vectors of one space.

    Args:
        name: `puppets`, a folder of an open_clip model, `model/pretrained tag`, or `model@file`
            with a .safetensors file of its weights.
        device: where it computes.

    Attributes:
        batch: pictures that are read at once.

    Raises:
        ConfigError: there is no such model, or it cannot be downloaded.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        model, tag = _model_and_weights(name)
        logging.disable(logging.INFO)  # open_clip tells every step of loading to the root logger
        try:
            self.model, _, transform = open_clip.create_model_and_transforms(
                model,
                pretrained=tag,
                require_pretrained=True,  # else open_clip scores with random weights
            )
            self.tokenizer = open_clip.get_tokenizer(model)
        except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
            line = str(error).strip().splitlines()[0]
            raise ConfigError(f"scores.encoder: {name} is not to be had: {line}") from error
        finally:
            logging.disable(logging.NOTSET)
        normalize = transform.transforms[-1]
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (normalize.mean, normalize.std)
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

    def patch_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W), 0 to 1 -> (N, P, d) unit vectors, one a patch of the picture."""
        parts = []
        with torch.inference_mode():
            for part in images.split(self.batch):
                found = self.model.visual.forward_intermediates(
                    self._pixels(part), indices=1, intermediates_only=True, output_fmt="NLC"
                )
                parts.append(found["image_intermediates"][-1])
        return functional.normalize(torch.cat(parts).float(), dim=-1).clone()

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


def _model_and_weights(name: str) -> tuple[str, str | None]:
    """What open_clip calls the model, and where its weights come from (None: from the model)."""
    folder = EMBEDDED_FOLDER if name == EMBEDDED else expanded(name)
    if folder.is_dir():
        return f"local-dir:{folder}", None
    if "@" in name:
        model, _, file = name.partition("@")
        weights = expanded(file)
        if weights.suffix != ".safetensors" or not weights.is_file():
            raise ConfigError(
                f"scores.encoder: there is no .safetensors file {file} (a pickle can run code)"
            )
        return model, str(weights)
    model, _, tag = name.rpartition("/")
    return (model, tag) if model else (tag, None)
