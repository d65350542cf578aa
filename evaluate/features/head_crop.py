"""Crops of the head, by which a subject is recognized if the image shows a body.

Features of whole images reflect little but background and clothes, which a prompt may change.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from evaluate.features.pose import NOSE, SHOULDERS, HeadFrame


def head_crops(images: Tensor, poses: Tensor, frame: HeadFrame, side: int) -> Tensor:
    """Upright squares around the heads; outside of the image its edge is repeated.

    Args:
        images: (N, 3, S, S), 0 to 1.
        poses: (N, 13, 3), joints as fractions of the side, with their confidence.
        frame: size and position of the square.
        side: of the crops, in pixels.

    Returns:
        (N, 3, side, side), 0 to 1.
    """
    positions = poses[..., :2].to(images.device)
    nose = positions[:, NOSE]
    unit = (nose - positions[:, SHOULDERS].mean(1)).norm(dim=-1).clamp_min(1e-3)
    half = frame.side * unit / 2
    center = nose - torch.stack([torch.zeros_like(unit), frame.above * unit], dim=-1)
    matrix = torch.zeros(len(images), 2, 3, device=images.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 2 * half
    matrix[:, :, 2] = 2 * center - 1
    grid = functional.affine_grid(matrix, [len(images), 3, side, side], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
