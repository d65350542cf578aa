"""The scores, each a torchmetrics.Metric whose value is (estimate, lower bound, upper bound).

Intervals come from the bootstrap over probes (Efron 1979), with the same resamples for a checkpoint
and the base. Shares take Wilson's interval (1927) instead, since the bootstrap of a share that is 0
or 1 in the sample has no width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from evaluate.intervals import wilson
from evaluate.pose import PoseSource

NULL_QUANTILE = 0.05  # of the base's own poses count as memorised by definition


class Score(Metric):
    """A score over probes. `update` takes what one batch of probes gave, `compute` judges all.

    Args:
        resamples: of the bootstrap.
        confidence: of the interval, 0 to 1.
    """

    full_state_update = False
    higher_is_better: bool | None = True
    values: list[Tensor]

    def __init__(self, resamples: int = 500, confidence: float = 0.9) -> None:
        super().__init__()
        self.resamples, self.confidence = resamples, confidence
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, *features: Tensor) -> None:
        """Adds what is seen on a batch of probes: the values themselves, one a probe."""
        self.values.append(features[0].detach().cpu())

    def compute(self) -> Tensor:
        """(3,): estimate, lower and upper bound."""
        values = torch.cat(self.values)
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


class PromptFidelity(Score):
    """mean cos(image, prompt) of the checkpoint over that of the base on the same probes.

    CLIPScore of Hessel et al. 2021 without its constant, as a ratio; 1: as obedient as the base.

    Args:
        base: (N,) the base's own similarities, by probe.
    """

    base: Tensor

    def __init__(self, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("base", base.cpu())

    def update(self, *features: Tensor) -> None:
        """Image and text features, (N, d) each."""
        images, texts = features
        super().update((images * texts).sum(-1))

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        return values[index].mean(1) / self.base[index].mean(1)


class SubjectFidelity(Score):
    """(d_base - d) / (d_base - d_training), with d the mean distance to the training pictures.

    0: as like as the bare base; 1: as the training pictures are to each other (leave-one-out).
    Distances are those of unit image features, |a - b| = sqrt(2 - 2 cos), from which nuisance
    directions are removed, so that for example a training background is no likeness. (Plain
    cosines, CLIP-I of Ruiz et al. 2023, level off early: half a likeness would score three
    quarters.)

    Args:
        training: (n, d) features of the training pictures.
        base: (m, d) features of the base's pictures.
        nuisance: (k, d) orthonormal directions to be removed; k may be 0.
    """

    bank: Tensor
    nuisance: Tensor
    base_distance: Tensor
    training_distance: Tensor

    def __init__(self, training: Tensor, base: Tensor, nuisance: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("nuisance", nuisance.cpu())
        bank = self._clean(training)
        self.register_buffer("bank", bank)
        self.register_buffer("base_distance", self._distance(self._clean(base)).mean())
        count = len(bank)
        among = self._distance(bank).sum() / max(1, count * (count - 1))  # that to itself is 0
        self.register_buffer("training_distance", among)

    def _distance(self, clean: Tensor) -> Tensor:
        """(N, n) to each training picture."""
        return torch.cdist(clean, self.bank, compute_mode="donot_use_mm_for_euclid_dist")

    def _clean(self, features: Tensor) -> Tensor:
        features = features.cpu()
        rest = features - features @ self.nuisance.T @ self.nuisance
        return torch.nn.functional.normalize(rest, dim=-1)

    def update(self, *features: Tensor) -> None:
        """Image features (N, d), and (N,) whether a subject is there: where not, no likeness is."""
        images, found = features
        distance = self._distance(self._clean(images)).mean(1)
        super().update(distance.where(found.cpu(), self.base_distance))

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        room = (self.base_distance - self.training_distance).clamp_min(1e-6)
        return (self.base_distance - values[index].mean(1)) / room


class Share(Score):
    """A share g of probes above the base's own rate b: max(0, (g - b) / (1 - b)), 0 to 1.

    Args:
        base_rate: b.
    """

    higher_is_better = False

    def __init__(self, base_rate: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.base_rate = base_rate

    def compute(self) -> Tensor:
        values = torch.cat(self.values).float()
        if self.base_rate >= 1:  # the base does it always: nothing can be told of the checkpoint
            return torch.tensor([0.0, 0.0, 1.0])
        share = float(values.mean())
        bounds = torch.tensor([share, *wilson(share, len(values), self.confidence)])
        return ((bounds - self.base_rate) / (1 - self.base_rate)).clamp(0, 1)

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        return values[index].mean(1)


class PoseMemorization(Share):
    """Share of images whose pose is nearer to a training pose than the base's poses come.

    The radius is the 5 % quantile of the distances 1 - OKS from the base's poses (same probes) to
    their nearest training pose; those 5 % are taken off: (share - 0.05) / 0.95. Against the base,
    since a small training set's own leave-one-out radius (authenticity, Alaa et al. 2022)
    shrinks to nothing when its poses sit in clusters.
    """

    def __init__(self, source: PoseSource, training: Tensor, base: Tensor, **options: Any) -> None:
        super().__init__(base_rate=NULL_QUANTILE, **options)
        self.source, self.bank = source, training
        nearest = source.similarity(base, training).max(1).values
        self.radius = torch.quantile(nearest, 1 - NULL_QUANTILE)

    def update(self, *features: Tensor) -> None:
        """Poses of the detected subjects, (N, ...)."""
        nearest = self.source.similarity(features[0], self.bank).max(1).values
        super().update((nearest > self.radius).float())


class PoseDiversity(Score):
    """Vendi score (Friedman and Dieng 2023) of the poses over that of the base's, same probes.

    exp of the entropy of the eigenvalues of K / N, with K the OKS kernel; 1: as varied as the base.

    Args:
        base: (N, N) similarities among the base's poses on the probes that count.
    """

    base: Tensor

    def __init__(self, source: PoseSource, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.source = source
        self.register_buffer("base", base.cpu())

    def update(self, *features: Tensor) -> None:
        """Poses of all probes that count, (N, ...), in one call."""
        super().update(self.source.similarity(features[0], features[0]))

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        return vendi(values, index) / vendi(self.base, index)


def vendi(kernel: Tensor, index: Tensor) -> Tensor:
    """Vendi scores (R,) of the resamples index (R, N) of a kernel (N, N)."""
    drawn = kernel[index[:, :, None], index[:, None, :]]
    # the better of two mirror images is no strict kernel: small negative eigenvalues are cut
    weights = torch.linalg.eigvalsh((drawn + drawn.mT) / 2).clamp_min(1e-12)
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.exp(-(weights * weights.log()).sum(-1))


class AttributeLeak(Share):
    """How often an image shows a training background (outfit) where another was asked for.

    Judged by CLIP zero-shot among the values of the probe set, above the base's rate b on the
    same probes: max(0, (g - b) / (1 - b)). For an attribute of several parts (shirt and trousers)
    a probe's value is the share of its parts that leak.
    """


class ValidationLoss(Score):
    """Mean diffusion loss on held-out pictures, at fixed timesteps and fixed noise."""

    higher_is_better = False

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        return values[index].mean(1)
