"""Which checkpoint is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluate.config import PolicyConfig
from evaluate.policy import fidelity, select, violations
from evaluate.scorecard import Estimate, Scorecard

POLICY = PolicyConfig(limits={"pose_memorization": 0.3})


def card(epoch: int, subject: float, memorized: float, width: float = 0.05) -> Scorecard:
    def around(value: float) -> Estimate:
        return Estimate(value, value - width, value + width)

    return Scorecard(
        Path(f"{epoch}.safetensors"),
        epoch,
        {
            "prompt_fidelity": around(1.0),
            "subject_fidelity": around(subject),
            "pose_memorization": around(memorized),
        },
    )


def test_the_best_within_the_limits_wins_over_a_better_one_beyond() -> None:
    cards = [card(1, 0.2, 0.0), card(2, 0.6, 0.1), card(3, 0.9, 0.8)]
    pick = select(cards, POLICY)
    assert (pick.scorecard.epoch, pick.feasible) == (2, True)
    assert "80 % of the images repeat a training pose" in pick.later


def test_the_upper_bound_counts_not_the_estimate() -> None:
    pick = select([card(1, 0.5, 0.1), card(2, 0.9, 0.29)], POLICY)
    assert pick.scorecard.epoch == 1
    assert violations(card(2, 0.9, 0.29), POLICY)["pose_memorization"] == pytest.approx(0.04)


def test_within_one_standard_error_the_earliest_wins() -> None:
    cards = [card(1, 0.3, 0.0), card(2, 0.58, 0.0), card(3, 0.60, 0.0)]
    assert select(cards, POLICY).scorecard.epoch == 2
    exact = PolicyConfig(limits=POLICY.limits, standard_errors=0.0)
    assert select(cards, exact).scorecard.epoch == 3


def test_none_feasible_is_said_loudly() -> None:
    pick = select([card(1, 0.5, 0.7), card(2, 0.9, 0.9)], POLICY)
    assert (pick.scorecard.epoch, pick.feasible) == (1, False)
    assert "WARNING" in pick.reasons[0]
    assert "90 % of the images repeat a training pose" in pick.later


def test_a_wide_interval_alone_is_not_called_a_fault() -> None:
    pick = select([card(1, 0.5, 0.1, width=0.4), card(2, 0.5, 0.1, width=0.4)], POLICY)
    assert not pick.feasible
    assert pick.later == ""


def test_fidelity_is_the_geometric_mean_with_its_error() -> None:
    assert fidelity(card(1, 0.25, 0.0)).value == pytest.approx(0.5)
    assert fidelity(card(1, 0.25, 0.0, width=0.1)).error > fidelity(card(1, 0.25, 0.0)).error


def test_unknown_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="pose_memorisation"):
        select([card(1, 0.5, 0.1)], PolicyConfig(limits={"pose_memorisation": 0.1}))


def test_a_scorecard_survives_its_json() -> None:
    assert Scorecard.from_dict(card(3, 0.5, 0.1).to_dict()) == card(3, 0.5, 0.1)
