"""A picture as numbers: framed, mirrored, tinted."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.data.images.buckets import Frame
from train.data.images.color_jitter import ColorJitter
from train.data.images.image import TrainingImage, open_picture


def square(picture: TrainingImage, side: int) -> Tensor:
    """(3, side, side) float, 0 to 1: scaled to cover the square, then cropped in the middle."""
    return framed(picture, Frame.covering(picture.size, (side, side)))


def framed(
    picture: TrainingImage, frame: Frame, flipped: bool = False, tint: ColorJitter | None = None
) -> Tensor:
    """(3, H, W) float, 0 to 1: what the frame shows of a picture.

    Args:
        flipped: left and right exchanged.
        tint: a change of its colors.

    Raises:
        DataError: its file is no picture any more.
    """
    image = open_picture(picture.path)
    # averaging when shrinking, as kohya's INTER_AREA
    method = Image.Resampling.BOX if frame.scale < 1 else Image.Resampling.BICUBIC
    image = image.resize(frame.size, method, box=frame.box)
    if tint:
        image = tint(image)
    values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    return values.flip(-1) if flipped else values
