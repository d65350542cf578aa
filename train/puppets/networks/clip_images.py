"""What the tiny CLIP sees: images and heads, cropped and changed a little."""

import torch
from torch import Tensor
from torch.nn import functional as F

from train.puppets.networks.targets import heads_of
from train.puppets.networks.training import device, weathered
from train.puppets.world.examples import Drawing

IMAGE_SIDE = 96  # pixels
CROP, CROP_ABOVE = 2.8, 0.6  # side of a head's crop, and its center above the nose, in head units


def prepared(images: Tensor) -> Tensor:
    """open_clip's preprocessing."""
    resized = F.interpolate(images, (IMAGE_SIDE, IMAGE_SIDE), mode="bicubic", antialias=True)
    return (resized.clamp(0, 1) - 0.5) / 0.25


def random_crops(count: int) -> tuple[Tensor, Tensor]:
    """Crops of at least 92% of the side: centers (N, 2) and sides (N,), as shares of the side."""
    sides = 1 - 0.08 * torch.rand(count, device=device())
    return 0.5 + (1 - sides)[:, None] * (torch.rand(count, 2, device=device()) - 0.5), sides


def crops_of_heads(drawings: list[Drawing]) -> tuple[Tensor, Tensor]:
    """Crops of puppets' heads, roughly as the scores make them."""
    noses, units = heads_of(drawings)
    offset = 0.2 * torch.randn(len(drawings), 2, device=noses.device)
    offset[:, 1] -= CROP_ABOVE
    sides = CROP * units * (0.85 + 0.4 * torch.rand(len(drawings), device=noses.device))
    return noses + offset * units[:, None], sides


def augmented(images: Tensor, centers: Tensor, sides: Tensor) -> Tensor:
    """Adds noise and blur, and slight changes of brightness and color, and then crops."""
    n, side = len(images), images.shape[-1]
    images = weathered(images)
    gain = 1 + 0.06 * torch.randn(n, 3, 1, 1, device=images.device)
    images = (images * gain + 0.02 * torch.randn(n, 3, 1, 1, device=images.device)).clamp(0, 1)
    matrix = torch.zeros(n, 2, 3, device=images.device)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = sides, sides, 2 * centers - 1
    grid = F.affine_grid(matrix, [n, 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
