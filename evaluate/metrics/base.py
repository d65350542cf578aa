"""The scores, each a torchmetrics.Metric whose value is (estimate, lower bound, upper bound).

Intervals come from the bootstrap over probes (Efron 1979), with the same resamples for a checkpoint
and the base. Shares take Wilson's interval (1927) instead, since the bootstrap of a share that is 0
or 1 in the sample has no width. A metric knows the training pictures and the base from the start
and scores one checkpoint after another: reset, update, compute.

A score that cannot be told is nan and never a number: where the scale on which it is measured is
not surely there (`doubt` says why), or where there are too few observations for an interval.
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

SURE = 3.0  # a scale is there where it is greater than so many of its standard errors
LEAST = 2  # observations that an interval needs


def vanishes(scale: float, error: float) -> bool:
    """Whether a scale may as well be zero, so that nothing can be divided by it.

    The ratio of two normal variables has a bounded confidence interval only where its denominator
    surely differs from zero (Fieller 1954). With SURE standard errors the scale itself is known to
    a third. A scale or an error that is nan counts as vanishing.
    """
    return not scale > SURE * error


class Score(Metric):
    """A score over probes. `update` takes what one batch of probes gave, `compute` judges all.

    Args:
        resamples: of the bootstrap.
        confidence: of the interval, 0 to 1.

    Attributes:
        doubt: why the score cannot be told with these training pictures and this base, whatever the
            checkpoint; empty: it can.
    """

    full_state_update = False
    higher_is_better: bool | None = True
    values: list[Tensor]

    def __init__(self, resamples: int = 500, confidence: float = 0.9) -> None:
        super().__init__()
        self.resamples, self.confidence = resamples, confidence
        self.doubt = ""
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, *features: Tensor) -> None:
        """Adds what is seen on a batch of probes: the values themselves, one a probe."""
        self.values.append(features[0].detach().cpu().float())

    def compute(self) -> Tensor:
        """(3,): estimate, lower and upper bound; nan where it cannot be told."""
        values = torch.cat(self.values)
        if self.doubt or len(values) < LEAST:
            return torch.full((3,), torch.nan)
        count = len(values)
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(count, (self.resamples, count), generator=generator)
        estimate = self.statistic(values, torch.arange(count).unsqueeze(0))[0]
        drawn = self.statistic(values, index)
        tails = torch.tensor([(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        # resampling alone shifts some statistics (diversity falls with repeats): centred
        low, high = torch.quantile(drawn, tails) - drawn.mean() + estimate
        return torch.stack([estimate, low.clamp_max(estimate), high.clamp_min(estimate)])

    @abstractmethod
    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        """The score of each resample; index (R, N) -> (R,)."""

    def by_probe(self) -> Tensor:
        """(N,) what each probe adds: their mean is the estimate. Only where there is such a thing.

        Two checkpoints share their probes, so that the difference of two scores is much surer than
        the two intervals say; these are what it takes to know it.
        """
        return torch.zeros(0)


class Mean(Score):
    """The plain mean over the probes."""

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        return values[index].mean(1)

    def by_probe(self) -> Tensor:
        return torch.cat(self.values)


class Share(Mean):
    """A share g of probes above the base's own rate b: max(0, (g - b) / (1 - b)), 0 to 1.

    The interval has both in it: Wilson's of g, and the standard error of b. `by_probe` is whether
    each probe shows it, 0 to 1, the base's rate not taken off.

    Args:
        base_rate: b.
        base_count: of the base's pictures that b was seen in; 0: b is known exactly.
    """

    higher_is_better = False

    def __init__(self, base_rate: float = 0.0, base_count: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.base_rate = base_rate
        self.base_error = sqrt(base_rate * (1 - base_rate) / base_count) if base_count else 0.0

    def compute(self) -> Tensor:
        """(3,): estimate, lower and upper bound, 0 to 1 of a checkpoint that shows nothing."""
        if self.doubt:
            return torch.full((3,), torch.nan)
        values = torch.cat(self.values)
        # no probe, or the base does it always: nothing can be told of the checkpoint
        if not len(values) or self.base_rate >= 1:
            return torch.tensor([0.0, 0.0, 1.0])
        share, room = float(values.mean()), 1 - self.base_rate
        value, low, high = (
            (bound - self.base_rate) / room
            for bound in (share, *wilson(share, len(values), self.confidence))
        )
        quantile = NormalDist().inv_cdf((1 + self.confidence) / 2)
        by_base = quantile * self.base_error * (1 - share) / room**2
        bounds = [value, value - hypot(value - low, by_base), value + hypot(high - value, by_base)]
        return torch.tensor(bounds).clamp(0, 1)


class DetectionRate(Share):
    """Share of images in which the pose source finds a subject, 0 to 1."""

    higher_is_better = True
