"""Confidence intervals."""

from __future__ import annotations

from statistics import NormalDist


def wilson(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of a share observed in `count` draws (Wilson 1927), within 0 to 1.

    Unlike a bootstrap interval, it does not collapse when the share is 0 or 1.
    """
    squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / count
    center = (share + squared / 2) / (1 + squared)
    half = (share * (1 - share) * squared + squared**2 / 4) ** 0.5 / (1 + squared)
    return center - half, center + half
