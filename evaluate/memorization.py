"""What a checkpoint repeats of its training pictures: poses, places, outfits, whole pictures."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from evaluate.pose import PoseSource
from evaluate.score import Score, Share

NULL_QUANTILE = 0.05  # of the base's own poses count as memorised by definition
GRID, ROUNDS = 201, 30  # weights that are tried, rounds of expectation maximisation


class PoseMemorization(Share):
    """Share of images whose pose is nearer to a training pose than the base's poses come.

    The radius is the 5 % quantile of the distances 1 - OKS from the base's poses (same probes) to
    their nearest training pose; those 5 % are taken off: (share - 0.05) / 0.95. Against the base,
    since a small training set's own leave-one-out radius (authenticity, Alaa et al. 2022)
    shrinks to nothing when its poses sit in clusters.

    Args:
        training, base: poses of the detected subjects.
    """

    def __init__(self, source: PoseSource, training: Tensor, base: Tensor, **options: Any) -> None:
        super().__init__(base_rate=NULL_QUANTILE, base_count=len(base), **options)
        self.source, self.bank = source, training
        nearest = source.similarity(base, training).max(1).values if len(base) else torch.ones(1)
        self.radius = torch.quantile(nearest, 1 - NULL_QUANTILE)

    def nearness(self, poses: Tensor) -> Tensor:
        """(N,) similarity to the nearest training pose."""
        return self.source.similarity(poses, self.bank).max(1).values

    def update(self, *features: Tensor) -> None:
        """Poses of the detected subjects, (N, ...)."""
        super().update((self.nearness(features[0]) > self.radius).float())


class PoseDiversity(Score):
    """Vendi score (Friedman and Dieng 2023) of the poses over that of the base's, same probes.

    exp of the entropy of the eigenvalues of K / N, with K the OKS kernel; 1: as varied as the base.

    Args:
        base: (N, ...) the base's poses, by probe.
    """

    kernel: Tensor

    def __init__(self, source: PoseSource, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.source, self.found = source, source.detected(base)
        self.register_buffer("kernel", source.similarity(base, base).cpu())
        self.rows = torch.zeros(0, dtype=torch.long)

    def update(self, *features: Tensor) -> None:
        """Poses of all the probes, (N, ...), in one call and in order."""
        poses = features[0]
        self.rows = (self.source.detected(poses) & self.found).nonzero().squeeze(1)
        super().update(self.source.similarity(poses[self.rows], poses[self.rows]))

    def compute(self) -> Tensor:
        """As `Score.compute`; nan where fewer than two probes have a pose in both."""
        if len(self.rows) < 2:
            return torch.full((3,), torch.nan)
        return super().compute()

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        rows = self.rows.cpu()
        return vendi(values, index) / vendi(self.kernel[rows][:, rows], index)


def vendi(kernel: Tensor, index: Tensor) -> Tensor:
    """Vendi scores (R,) of the resamples index (R, N) of a kernel (N, N)."""
    drawn = kernel[index[:, :, None], index[:, None, :]]
    # the better of two mirror images is no strict kernel: small negative eigenvalues are cut
    weights = torch.linalg.eigvalsh((drawn + drawn.mT) / 2).clamp_min(1e-12)
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.exp(-(weights * weights.log()).sum(-1))


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
        likely = torch.cat(self.values)
        rows = likely.flatten(0, 1)
        rows = rows[rows.sum(1) > 0]
        if not len(rows):
            return torch.tensor([0.0, 0.0, 1.0])
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
        belongs = (1 - grid[:, None]) / total
        rest = (belongs * own).sum(1) / (belongs * other).sum(1).clamp_min(1e-9)
    total = (1 - grid[:, None]) * (rest[:, None] * first + (1 - rest[:, None]) * third)
    return grid, (total + grid[:, None] * second).clamp_min(1e-12).log().sum(1), rest


class Copying(Share):
    """Share of images that are copies of a training picture.

    Distances are those of patch features, so that place counts: of two pictures of one subject in
    one place only the copy is near everywhere. A copy is nearer to a training picture than half
    the median distance of the base's pictures to their nearest one. Against the base, since the
    training pictures' distances from each other (authenticity, Alaa et al. 2022) are nothing
    where there are two shots of one moment, and it is with such sets that copies are most likely.
    The base's own rate b is taken off: max(0, (g - b) / (1 - b)).

    Args:
        training: (n, P, d) unit patch features of the training pictures.
        base: (m, P, d) of the base's.
    """

    bank: Tensor
    radius: Tensor

    def __init__(self, training: Tensor, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("bank", flat(training))
        null = self.distance(base)
        self.register_buffer("radius", null.median() / 2)
        self.base_rate = float((null < self.radius).float().mean())

    def distance(self, patches: Tensor) -> Tensor:
        """(N,) to the nearest training picture: root mean square over the patches."""
        return torch.cdist(flat(patches), self.bank).min(1).values

    def update(self, *features: Tensor) -> None:
        """Unit patch features, (N, P, d)."""
        super().update((self.distance(features[0]) < self.radius).float())


def flat(patches: Tensor) -> Tensor:
    """(N, P, d) -> (N, P * d), so that distances are root mean squares over the patches."""
    return patches.cpu().flatten(1) / patches.shape[1] ** 0.5
