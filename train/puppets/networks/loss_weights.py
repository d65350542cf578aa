"""Where the UNet's loss counts: on a puppet's head and body, or on a toy, more than on the scenery.

The scenery fills most of an image and is soon learned; a face is a tenth of it and has the most to
learn. So each of the three has a fixed share of an image's loss, however small the puppet is. A toy
counts as a body without a head.
"""

import torch
from torch import Tensor

from train.puppets.networks.targets import heads_of, points_of
from train.puppets.world.examples import Drawing, Toy
from train.puppets.world.pen import SIDE

CELLS = 16  # of the latents, per side
SHARES = (0.4, 0.4, 0.2)  # of the loss: head, body, scenery
HEAD_REACH = 1.2  # in units of the distance from nose to middle of the shoulders
MARGIN = 0.06  # around the joints, as a share of the side
TOY_RADIUS = 9.0  # on the canvas, at scale 1


def loss_weights(drawings: list[Drawing]) -> Tensor:
    """Weights of the latents' cells, (N, 1, 16, 16), with mean 1."""
    points = points_of(drawings).cpu()
    nose, unit = (part.cpu() for part in heads_of(drawings))
    centers = (torch.arange(CELLS) + 0.5) / CELLS
    cells = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=2)  # (16, 16, 2)
    offsets = cells - nose[:, None, None]
    head = offsets.norm(dim=3) < HEAD_REACH * unit[:, None, None]  # nowhere in a toy
    low, high = _bounds(drawings, points)
    body = ((cells > low[:, None, None]) & (cells < high[:, None, None])).all(3) & ~head
    weights = torch.zeros(len(drawings), CELLS, CELLS)
    for share, region in zip(SHARES, (head, body, ~head & ~body), strict=True):
        weights += region * (share / region.sum((1, 2)).clamp(min=1))[:, None, None]
    return (weights / weights.mean((1, 2), keepdim=True))[:, None]


def _bounds(drawings: list[Drawing], points: Tensor) -> tuple[Tensor, Tensor]:
    """The corners of the boxes around puppets' joints (N, 13, 2), or around toys; each (N, 2)."""
    low, high = points.amin(1) - MARGIN, points.amax(1) + MARGIN
    for number, drawing in enumerate(drawings):
        if isinstance(drawing.subject, Toy):
            center, radius = (
                torch.tensor(drawing.subject.position),
                TOY_RADIUS * drawing.subject.scale,
            )
            low[number], high[number] = (center - radius) / SIDE, (center + radius) / SIDE
    return low, high
