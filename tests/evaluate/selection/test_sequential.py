"""Rounds of fresh probes find the best checkpoint, and say truly how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate.selection.sequential import (
    Values,
    behind,
    critical_value,
    probabilities_of_best,
)
from evaluate.selection.weighted_mean import contributions

LOOKS, PER_LOOK, ERROR_RATE, TOLERANCE = 6, 24, 0.1, 0.01
PROBE_SPREAD, NOISE = 0.1, 0.08  # of a probe's value: shared by all candidates; of each alone


def draw(rng: np.random.Generator, worths: Values) -> Values:
    """Values of all probes: those of a probe are alike for all candidates."""
    shared = rng.normal(0, PROBE_SPREAD, (LOOKS * PER_LOOK, 1))
    return worths + shared + rng.normal(0, NOISE, (LOOKS * PER_LOOK, len(worths)))


def test_contributions_have_the_weighted_mean_and_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    draws = [(rng.normal(0.9, 0.1, 96), rng.normal(0.6, 0.2, 96)) for _ in range(400)]
    worths = [float((p.mean() * s.mean()) ** 0.5) for p, s in draws]
    values = [contributions(list(p), list(s)) for p, s in draws]
    assert [v.mean() for v in values] == pytest.approx(worths)
    errors = [v.std(ddof=1) / 96**0.5 for v in values]
    assert np.mean(errors) == pytest.approx(np.std(worths), rel=0.1)
    assert contributions([-0.1, -0.2], [0.5, 0.6]).tolist() == [0, 0]


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.06])
def test_the_best_candidate_is_rarely_eliminated_and_bad_ones_mostly(spread: float) -> None:
    rng = np.random.default_rng(1)
    best_lost, bad_kept, bad = 0, 0, 0
    for _ in range(300):
        worths = rng.normal(0, spread, 6)
        values, alive = draw(rng, worths), np.arange(6)
        for look in range(1, LOOKS + 1):
            critical = critical_value(look, LOOKS, 5, ERROR_RATE)
            alive = alive[~behind(values[: look * PER_LOOK, alive], critical)]
        best_lost += int(worths.argmax()) not in alive
        hopeless = np.flatnonzero(worths < worths.max() - 0.06)
        bad += len(hopeless)
        bad_kept += len({*hopeless.tolist()} & {*alive.tolist()})
    assert best_lost / 300 <= ERROR_RATE
    if spread:
        assert bad_kept / bad < 0.05


@pytest.mark.parametrize(("candidates", "spread"), [(2, 0.02), (6, 0.01), (8, 0.03), (12, 0.05)])
def test_probabilities_are_calibrated_even_if_sampling_stops_when_they_are_high(
    candidates: int, spread: float
) -> None:
    rng = np.random.default_rng(2)
    said, right = [], []
    for _ in range(300):
        worths = rng.normal(0, spread, candidates)
        values = draw(rng, worths)
        for look in range(1, LOOKS + 1):
            seen = values[: look * PER_LOOK]
            probability = float(probabilities_of_best(seen, TOLERANCE)[seen.mean(0).argmax()])
            if probability > 0.9:
                break
        said.append(probability)
        right.append(worths[seen.mean(0).argmax()] >= worths.max() - TOLERANCE)
    assert np.mean(right) == pytest.approx(np.mean(said), abs=0.05)


def test_identical_candidates_are_all_the_best() -> None:
    values = np.repeat(np.random.default_rng(3).normal(0.7, 0.1, (24, 1)), 3, axis=1)
    assert not behind(values, 2.0).any()
    assert probabilities_of_best(values, TOLERANCE).tolist() == [1, 1, 1]
    assert probabilities_of_best(values[:, :1], TOLERANCE).tolist() == [1]
