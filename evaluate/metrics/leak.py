"""How often training backgrounds and outfits appear where others were requested."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from evaluate.metrics.base import Score

GRID, ROUNDS = 201, 30  # weights on the grid, rounds of expectation maximization


class AttributeLeak(Score):
    """How often an image shows a training background (outfit) where another was requested.

    CLIP's zero-shot classifier gives a value to every part of an image (an outfit may have a
    garment and a color). The images are modeled as a mixture of three: images of what was
    requested, classified as accurately as the base's; images of what the training images show,
    classified like those; and images of anything. The score is the maximum-likelihood weight of
    the second, with a likelihood-ratio interval (Wilks 1938). So an outfit without a name, which is
    classified now as one value and now as another, is recognized by its distribution. The parts of
    an image count as one observation.

    Args:
        shares: for each part (V,), how often a training image is classified as each value.
        accuracy: for each part, how often the base's images are classified as requested.
    """

    higher_is_better = False

    def __init__(self, shares: list[Tensor], accuracy: list[float], **options: Any) -> None:
        super().__init__(**options)
        self.shares, self.accuracy = shares, accuracy

    def update(self, *features: Tensor) -> None:
        """Indices of the classified and the requested values, (N, parts) each.

        A request is -1 if a probe leaves the part open, or asks for what training images show.
        """
        classified, requested = features
        likelihoods = []
        for part, (shares, accuracy) in enumerate(zip(self.shares, self.accuracy, strict=True)):
            values = classified[:, part]
            right, count = values == requested[:, part], len(shares)
            wrong = (1 - accuracy) / max(1, count - 1)
            columns = [torch.where(right, accuracy, wrong), shares[values],
                       torch.full(right.shape, 1 / count)]  # fmt: skip
            counts = (requested[:, part] >= 0).unsqueeze(-1)
            likelihoods.append(torch.stack(columns, dim=-1) * counts)
        # (N, parts, 3), 0 if a part does not count
        super().update(
            torch.stack(likelihoods, dim=1) if likelihoods else torch.zeros(len(classified), 0, 3)
        )

    def compute(self) -> Tensor:
        """As `Score.compute`; nan if no probe asks for what the training images lack."""
        likelihoods = torch.cat(self.values)
        rows = likelihoods.flatten(0, 1)
        rows = rows[rows.sum(1) > 0]
        if not len(rows):
            return torch.full((3,), torch.nan)
        grid, logs, _ = profile(rows)
        logs = logs / likelihoods.shape[1]
        margin = NormalDist().inv_cdf((1 + self.confidence) / 2) ** 2 / 2
        inside = grid[logs >= logs.max() - margin]
        return torch.stack([grid[logs.argmax()], inside.min(), inside.max()])

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        raise TypeError("a likelihood interval needs no resamples")

    def by_probe(self) -> Tensor:
        """Posterior probability that each image is of the second kind, averaged over its parts."""
        likelihoods = torch.cat(self.values)
        observed = likelihoods.sum(-1) > 0
        if not observed.any():
            return torch.zeros(0)
        grid, logs, rest = profile(likelihoods[observed])
        best = int(logs.argmax())
        weights = torch.tensor([(1 - grid[best]) * rest[best], grid[best],
                                (1 - grid[best]) * (1 - rest[best])])  # fmt: skip
        joint = likelihoods * weights
        posterior = joint[..., 1] / joint.sum(-1).clamp_min(1e-9)
        return posterior.sum(1) / observed.sum(1).clamp_min(1)


def profile(likelihoods: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Profile likelihood of a mixture of three, over the weight of the second component.

    Args:
        likelihoods: (N, 3) of each observation under each component.

    Returns:
        (G,) weights of the second component from 0 to 1, the log likelihood of each, and the share
        of the first component in the remaining weight, by expectation maximization for each.
    """
    grid = torch.linspace(0, 1, GRID)
    rest = torch.full_like(grid, 0.5)
    first, second, third = likelihoods.T.unsqueeze(1)  # (1, N) each
    for _ in range(ROUNDS):
        requested = rest[:, None] * first
        other = requested + (1 - rest[:, None]) * third
        total = (1 - grid[:, None]) * other + grid[:, None] * second
        belongs = (1 - grid[:, None]) / total.clamp_min(1e-12)
        rest = (belongs * requested).sum(1) / (belongs * other).sum(1).clamp_min(1e-9)
    total = (1 - grid[:, None]) * (rest[:, None] * first + (1 - rest[:, None]) * third)
    return grid, (total + grid[:, None] * second).clamp_min(1e-12).log().sum(1), rest
