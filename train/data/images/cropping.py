"""Images as tensors: scaled and cropped, mirrored, with changed colors."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.data.images.buckets import Crop
from train.data.images.color_jitter import ColorJitter
from train.data.images.image import TrainingImage, open_image


def square(image: TrainingImage, side: int) -> Tensor:
    """(3, side, side) float, 0 to 1: scaled to cover the square, cropped around the center."""
    return cropped(image, Crop.covering(image.size, (side, side)))


def cropped(
    image: TrainingImage, crop: Crop, flipped: bool = False, jitter: ColorJitter | None = None
) -> Tensor:
    """(3, H, W) float, 0 to 1: the cropped image.

    Args:
        flipped: mirror left and right.
        jitter: a change of its colors.

    Raises:
        DataError: the file can no longer be decoded.
    """
    decoded = open_image(image.path)
    # averaging when shrinking, as kohya's INTER_AREA
    method = Image.Resampling.BOX if crop.scale < 1 else Image.Resampling.BICUBIC
    decoded = decoded.resize(crop.size, method, box=crop.box)
    if jitter:
        decoded = jitter(decoded)
    values = torch.from_numpy(np.asarray(decoded, dtype=np.float32) / 255).permute(2, 0, 1)
    return values.flip(-1) if flipped else values
