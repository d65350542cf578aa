"""The scores: each is a torchmetrics.Metric whose value is (estimate, lower, upper bound).

Intervals come from the bootstrap over probes (Efron 1979), with the same resamples for a checkpoint
and the base. Shares use Wilson's interval (1927) instead, since a bootstrap interval collapses when
the observed share is 0 or 1. A metric is built with the training images and the base and then
scores one checkpoint after another: reset, update, compute.

An undefined score is nan and never a number: if the scale on which it is measured does not differ
significantly from zero (`undefined_reason` says so), or if there are too few observations for an
interval.
"""

from __future__ import annotations

from abc import abstractmethod
from math import hypot, sqrt
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from evaluate.intervals import wilson

MIN_STANDARD_ERRORS = 3.0  # a scale must exceed this multiple of its standard error
MIN_OBSERVATIONS = 2  # observations needed for an interval


def vanishes(scale: float, error: float) -> bool:
    """Whether a scale is indistinguishable from zero, so that nothing can be divided by it.

    The ratio of two normal variables has a bounded confidence interval only if its denominator
    differs significantly from zero (Fieller 1954). With SURE standard errors the scale itself is
    known to a third. A nan scale or error counts as vanishing.
    """
    return not scale > MIN_STANDARD_ERRORS * error


class Score(Metric):
    """A score over probes. `update` takes the features of a batch of probes.

    Args:
        resamples: number of bootstrap resamples.
        confidence: of the interval, 0 to 1.

    Attributes:
        undefined_reason: why the score is undefined with these training images and this base, for
            every checkpoint; empty if it is defined.
    """

    full_state_update = False
    higher_is_better: bool | None = True
    values: list[Tensor]

    def __init__(self, resamples: int = 500, confidence: float = 0.9) -> None:
        super().__init__()
        self.resamples, self.confidence = resamples, confidence
        self.undefined_reason = ""
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, *features: Tensor) -> None:
        """Adds the values of a batch of probes, one for each probe."""
        self.values.append(features[0].detach().cpu().float())

    def compute(self) -> Tensor:
        """(3,): estimate, lower and upper bound; nan if the score is undefined."""
        values = torch.cat(self.values)
        if self.undefined_reason or len(values) < MIN_OBSERVATIONS:
            return torch.full((3,), torch.nan)
        count = len(values)
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(count, (self.resamples, count), generator=generator)
        estimate = self.statistic(values, torch.arange(count).unsqueeze(0))[0]
        resampled = self.statistic(values, index)
        tails = torch.tensor([(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        # resampling alone shifts some statistics (repeats lower the diversity): re-center
        low, high = torch.quantile(resampled, tails) - resampled.mean() + estimate
        return torch.stack([estimate, low.clamp_max(estimate), high.clamp_min(estimate)])

    @abstractmethod
    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        """The score of each resample; index (R, N) -> (R,)."""

    def by_probe(self) -> Tensor:
        """(N,) each probe's contribution; their mean is the estimate. Empty for other statistics.

        Two checkpoints share their probes, so these give the difference of two scores a much
        smaller error than their two intervals suggest.
        """
        return torch.zeros(0)


class Mean(Score):
    """The mean over the probes."""

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        return values[index].mean(1)

    def by_probe(self) -> Tensor:
        return torch.cat(self.values)


class Share(Mean):
    """A share g of probes, adjusted for the base's own rate b: max(0, (g - b) / (1 - b)), 0 to 1.

    The interval combines Wilson's of g and the standard error of b. `by_probe` is the value of
    each probe, 0 to 1, not adjusted for the base's rate.

    Args:
        base_rate: b.
        base_count: number of base images from which b was estimated; 0: b is known exactly.
    """

    higher_is_better = False

    def __init__(self, base_rate: float = 0.0, base_count: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.base_rate = base_rate
        self.base_error = sqrt(base_rate * (1 - base_rate) / base_count) if base_count else 0.0

    def compute(self) -> Tensor:
        """(3,): estimate, lower and upper bound; the bounds are 0 and 1 if nothing is known."""
        if self.undefined_reason:
            return torch.full((3,), torch.nan)
        values = torch.cat(self.values)
        # without probes, or if the base always does it, nothing is known about the checkpoint
        if not len(values) or self.base_rate >= 1:
            return torch.tensor([0.0, 0.0, 1.0])
        share, headroom = float(values.mean()), 1 - self.base_rate
        value, low, high = (
            (bound - self.base_rate) / headroom
            for bound in (share, *wilson(share, len(values), self.confidence))
        )
        quantile = NormalDist().inv_cdf((1 + self.confidence) / 2)
        base_margin = quantile * self.base_error * (1 - share) / headroom**2
        bounds = [
            value,
            value - hypot(value - low, base_margin),
            value + hypot(high - value, base_margin),
        ]
        return torch.tensor(bounds).clamp(0, 1)


class DetectionRate(Share):
    """Share of images in which the pose source finds a subject, 0 to 1."""

    higher_is_better = True
