"""Mean colors in CIELAB, where equal distances look about equally different."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

_TO_LAB = ImageCms.buildTransform(
    ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
)


def mean_colors(images: Tensor) -> Tensor:
    """(N, 3, H, W) sRGB, 0 to 1 -> (N, 3): L* of 0 to 100, a* and b* (white point D50)."""
    rows = []
    for image in (images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy():
        lab = np.array(ImageCms.applyTransform(Image.fromarray(image), _TO_LAB))
        lightness, rest = lab[..., 0].mean() * 100 / 255, lab[..., 1:].view(np.int8)  # signed
        rows.append([lightness, *rest.mean((0, 1))])
    return torch.tensor(np.array(rows, dtype=np.float32))
