"""How often training backgrounds and outfits show where others were asked for."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from evaluate.metrics.base import Score

GRID, ROUNDS = 201, 30  # weights that are tried, rounds of expectation maximisation


class AttributeLeak(Score):
    """How often an image shows a training background (outfit) where another was asked for.

    CLIP zero-shot names a value for every part of an image (an outfit has shirt and trousers). The
    images are a mixture: of those that show what was asked for, read as well as on the base's
    pictures; of those that show what the training pictures do, read as on those; and of those that
    show anything. The score is the share of the second by maximum likelihood, the interval that of
    the likelihood ratio (Wilks 1938). So an outfit that has no name, and is read now as one value
    and now as another, is known by how it is read. Parts of an image count as one observation.

    Args:
        shares: part by part (V,) how often a training picture is read as each value.
        accuracy: part by part how often the base's pictures are read as what was asked for.
    """

    higher_is_better = False

    def __init__(self, shares: list[Tensor], accuracy: list[float], **options: Any) -> None:
        super().__init__(**options)
        self.shares, self.accuracy = shares, accuracy

    def update(self, *features: Tensor) -> None:
        """Numbers of the values seen and asked for, (N, parts) each.

        -1 is asked for where a probe leaves a part open, or asks for what training pictures show.
        """
        seen, asked = features
        likely = []
        for part, (shares, accuracy) in enumerate(zip(self.shares, self.accuracy, strict=True)):
            right, count = seen[:, part] == asked[:, part], len(shares)
            wrong = (1 - accuracy) / max(1, count - 1)
            columns = [torch.where(right, accuracy, wrong), shares[seen[:, part]],
                       torch.full(right.shape, 1 / count)]  # fmt: skip
            likely.append(torch.stack(columns, dim=-1) * (asked[:, part] >= 0).unsqueeze(-1))
        super().update(torch.stack(likely, dim=1))  # (N, parts, 3), 0 where a part does not count

    def compute(self) -> Tensor:
        """As `Score.compute`; nan where no probe asks for what the training pictures lack."""
        likely = torch.cat(self.values)
        rows = likely.flatten(0, 1)
        rows = rows[rows.sum(1) > 0]
        if not len(rows):
            return torch.full((3,), torch.nan)
        grid, logs, _ = profile(rows)
        logs = logs / likely.shape[1]
        room = NormalDist().inv_cdf((1 + self.confidence) / 2) ** 2 / 2
        inside = grid[logs >= logs.max() - room]
        return torch.stack([grid[logs.argmax()], inside.min(), inside.max()])

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        raise TypeError("the interval of a likelihood needs no resamples")

    def by_probe(self) -> Tensor:
        """How surely each image is of the second kind, the mean over its parts."""
        likely = torch.cat(self.values)
        counted = likely.sum(-1) > 0
        if not counted.any():
            return torch.zeros(0)
        grid, logs, rest = profile(likely[counted])
        best = int(logs.argmax())
        weights = torch.tensor([(1 - grid[best]) * rest[best], grid[best],
                                (1 - grid[best]) * (1 - rest[best])])  # fmt: skip
        sure = likely * weights
        sure = sure[..., 1] / sure.sum(-1).clamp_min(1e-9)
        return sure.sum(1) / counted.sum(1).clamp_min(1)


def profile(likely: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The profile likelihood of a mixture of three in the weight of the second.

    Args:
        likely: (N, 3) how likely each kind makes each observation.

    Returns:
        (G,) weights of the second kind from 0 to 1, the log likelihood of each, and the share of
        the first kind in what is left, found for each by expectation maximisation.
    """
    grid = torch.linspace(0, 1, GRID)
    rest = torch.full_like(grid, 0.5)
    first, second, third = likely.T.unsqueeze(1)  # (1, N) each
    for _ in range(ROUNDS):
        own = rest[:, None] * first
        other = own + (1 - rest[:, None]) * third
        total = (1 - grid[:, None]) * other + grid[:, None] * second
        belongs = (1 - grid[:, None]) / total.clamp_min(1e-12)
        rest = (belongs * own).sum(1) / (belongs * other).sum(1).clamp_min(1e-9)
    total = (1 - grid[:, None]) * (rest[:, None] * first + (1 - rest[:, None]) * third)
    return grid, (total + grid[:, None] * second).clamp_min(1e-12).log().sum(1), rest
