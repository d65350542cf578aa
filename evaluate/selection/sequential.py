"""Finds the best of several checkpoints from rounds of fresh probes: pure functions of values.

All candidates of a round have the same probes, so their differences are paired. After each round
those that are behind are eliminated by a group-sequential test, and a Bayesian model says how
probable it is that each of the rest is the best.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
NORMAL = NormalDist()
DRAWS = 4000  # from the posterior
# standard deviations of the candidates' true worths that are considered, equally probable
SPREADS = np.concatenate([[0.0], np.geomspace(0.002, 0.3, 24)])
MIN_VARIANCE = 1e-10  # of a difference: two checkpoints may have the same images


def critical_value(look: int, looks: int, comparisons: int, error_rate: float) -> float:
    """How many standard errors behind the leader a candidate must be to be eliminated.

    The error rate is spent over the looks as by O'Brien and Fleming (Lan and DeMets 1983), hardly
    any of it on the first ones, and shared equally among the comparisons (Bonferroni). So the best
    candidate is ever eliminated with at most this probability.

    Args:
        look: 1 for the first of `looks`, which are equally far apart.
        comparisons: number of candidates that are compared with the leader.
        error_rate: of all looks and comparisons together, above 0 and below 1.
    """

    def spent(share: float) -> float:
        return 2 - 2 * NORMAL.cdf(NORMAL.inv_cdf(1 - error_rate / 2) / share**0.5)

    now = spent(look / looks) - (spent((look - 1) / looks) if look > 1 else 0.0)
    return NORMAL.inv_cdf(1 - max(now, 1e-12) / comparisons)


def behind(values: Values, critical: float) -> NDArray[np.bool_]:
    """(K,) true for candidates that are behind the leader by more than `critical` standard errors.

    Args:
        values: (N, K) contribution of each probe to the worth of each candidate.
    """
    means = values.mean(0)
    lead = values[:, [means.argmax()]] - values
    error = lead.std(0, ddof=1) / len(values) ** 0.5
    return lead.mean(0) > critical * error


def probabilities_of_best(values: Values, tolerance: float, seed: int = 0) -> Values:
    """(K,) probability that each candidate is the best or behind the best by at most `tolerance`.

    The true worths are taken as draws from a normal distribution whose spread is unknown, with a
    uniform prior (the hierarchical model of Rubin 1981; Gelman 2006). Without this shrinkage the
    highest of many noisy values would be overrated. Looking after every round does not bias it.

    Args:
        values: (N, K), see `behind`; N at least 2.
        seed: of the draws from the posterior.
    """
    count, candidates = values.shape
    if candidates == 1:
        return np.ones(1)
    # orthonormal contrasts between the candidates: what they have in common cancels
    basis = np.concatenate([np.ones((candidates, 1)), np.eye(candidates)[:, :-1]], axis=1)
    contrasts = np.linalg.qr(basis)[0][:, 1:]
    covariance = np.atleast_2d(np.cov(values @ contrasts, rowvar=False)) / count
    noise, rotation = np.linalg.eigh(covariance)
    noise, axes = noise.clip(MIN_VARIANCE), contrasts @ rotation
    observed = values.mean(0) @ axes
    total = noise + SPREADS[:, None] ** 2
    log_likelihood = -0.5 * (np.log(total) + observed**2 / total).sum(1)
    weight = np.exp(log_likelihood - log_likelihood.max()) * np.gradient(SPREADS)
    rng = np.random.default_rng(seed)
    variance = SPREADS[rng.choice(len(SPREADS), DRAWS, p=weight / weight.sum())][:, None] ** 2
    shrinkage = variance / (variance + noise)
    drawn = shrinkage * observed + (shrinkage * noise) ** 0.5 * rng.standard_normal(
        (DRAWS, candidates - 1)
    )
    worths = drawn @ axes.T
    near: Values = (worths >= worths.max(1, keepdims=True) - tolerance).mean(0)
    return near
