"""What is true of drawings, as tensors on the training device."""

import math

import torch
from torch import Tensor

from train.puppets.networks.training import device
from train.puppets.next_world.attributes import labels_of
from train.puppets.next_world.examples import JOINTS, Drawing, Puppet, keypoints

COLORS = ("skin", "head_color", "color", "second_color", "paper", "ink")
FILLS = ("plain", "pale", "hatched")
UNKNOWN = (math.nan,) * 3


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
