"""What is true of drawings, as tensors on the training device."""

import math

import torch
from torch import Tensor

from train.puppets.networks.training import device
from train.puppets.world.attributes import labels_of
from train.puppets.world.examples import JOINTS, Drawing, Puppet, Toy, keypoints
from train.puppets.world.pen import SIDE

COLORS = ("skin", "head_color", "color", "second_color", "paper", "ink")
FILLS = ("plain", "pale", "hatched")
UNKNOWN = (math.nan,) * 3
NOSE = JOINTS.index("nose")
SHOULDERS = [JOINTS.index(f"{side}_shoulder") for side in ("left", "right")]
# a head's crop, from the chin to the top of the hat: its side, and its center above the nose, in
# units of the distance from the nose to the middle of the shoulders
HEAD_SIDE, HEAD_ABOVE = 2.8, 0.6
CELLS = 16  # of the latents, per side
SHARES = (0.4, 0.4, 0.2)  # of the loss: head, body, scenery
HEAD_REACH = 1.2  # in units of the distance from nose to middle of the shoulders
MARGIN = 0.06  # around the joints, as a share of the side
TOY_RADIUS = 9.0  # on the canvas, at scale 1


def labels_tensor(drawings: list[Drawing]) -> Tensor:
    """The index of the value of each of VALUES, (N, 13); -100 for none."""
    return torch.tensor([labels_of(drawing) for drawing in drawings], device=device())


def fill_of(drawings: list[Drawing]) -> Tensor:
    """The index in FILLS, (N,)."""
    return torch.tensor([FILLS.index(d.style.fill) for d in drawings], device=device())


def colors_of(drawings: list[Drawing]) -> Tensor:
    """The COLORS that can be seen, (N, 6, 3), 0 to 1; NaN for the others.

    Those of the subject fade in the styles that have a paper, and its ink may have no color of its
    own.
    """
    rows = []
    for drawing in drawings:
        plain = drawing.style.fill == "plain"
        source = drawing.subject.looks if plain else drawing.style
        rows.append([getattr(source, name, None) or UNKNOWN for name in COLORS])
    return torch.tensor(rows, device=device()) / 255


def points_of(drawings: list[Drawing]) -> Tensor:
    """The joints of puppets, (N, 13, 2), as fractions of the side; NaN for toys."""
    unknown = torch.full((len(JOINTS), 2), math.nan)
    points = [
        torch.from_numpy(keypoints(d.subject)) if isinstance(d.subject, Puppet) else unknown
        for d in drawings
    ]
    return torch.stack(points).to(device())


def heads_of(drawings: list[Drawing]) -> tuple[Tensor, Tensor]:
    """Puppets' noses (N, 2) and their distances from the middle of the shoulders (N,).

    Both are fractions of the side; NaN for toys.
    """
    return _heads(points_of(drawings))


def _heads(points: Tensor) -> tuple[Tensor, Tensor]:
    nose = points[:, NOSE]
    return nose, (nose - points[:, SHOULDERS].mean(1)).norm(dim=1)


def loss_weights(drawings: list[Drawing]) -> Tensor:
    """Weights of the latents' cells in the UNet's loss, (N, 1, 16, 16), with mean 1.

    The scenery fills most of an image and is soon learned; a face is a tenth of it and has the most
    to learn. So head, body and scenery each have a fixed share of an image's loss, however small
    the puppet is. A toy counts as a body without a head.
    """
    points = points_of(drawings).cpu()
    nose, unit = _heads(points)
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
