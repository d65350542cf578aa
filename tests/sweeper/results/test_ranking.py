"""The order of the trials of a study, and the sentences about the best one."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluate.scorecard import Scorecard
from sweeper.results.ranking import RankedTrial, explain, pareto_numbers, rank_trials
from sweeper.tracking.trial_record import COMPLETE, ScoredEpoch, TrialRecord
from tests.evaluate.selection.test_policy import POLICY, card


def ranked(*trials: list[Scorecard]) -> list[RankedTrial]:
    """Trials with these scorecards, best first."""
    records = [
        TrialRecord(Path(f"trial-{n}"), "s", n, {}, [], {"network.rank": n}, {}, COMPLETE,
                    epochs=[ScoredEpoch(each, 0.1, 1e-3, 1.0, 1.0, 0, "") for each in cards])
        for n, cards in enumerate(trials)
    ]  # fmt: skip
    return rank_trials(records, POLICY, lambda record: "")


def test_front_offers_no_trial_that_is_over_a_limit() -> None:
    """A trial whose images are broken repeats no pose, which is no alternative to the best."""
    broken = card(1, -0.4, 0.0, width=0.4)
    trials = ranked([card(1, 0.8, 0.2)], [broken], [card(1, 0.6, 0.1)])
    assert pareto_numbers(trials) == [2, 0]
    only_bad = ranked([card(1, 0.8, 0.9)], [card(1, 0.6, 0.5)], [card(1, 0.5, 0.6)])
    assert pareto_numbers(only_bad) == [1, 0]


def test_epochs_before_the_best_that_are_over_a_limit_are_named() -> None:
    early = card(1, 0.9, 0.28)
    sentences = explain(ranked([early, card(2, 0.8, 0.1), card(3, 0.7, 0.9)], [card(1, 0.4, 0.0)]))
    assert sentences[0].startswith("Trial 0")
    assert "Before it, over a limit: epoch 1 (pose_memorization may be 0.330 (limit 0.3))." in (
        sentences
    )
    assert "at epoch 3 90% of the images come close to a training pose" in sentences[1]
    assert not any("Before" in text for text in explain(ranked([card(1, 0.7, 0.1), early])))


@pytest.mark.parametrize(("likeness", "warned"), [(0.05, True), (0.4, False)])
def test_best_trial_that_has_learned_nothing_is_no_success(likeness: float, warned: bool) -> None:
    sentences = explain(ranked([card(1, likeness, 0.0)], [card(1, likeness - 0.2, 0.0)]))
    assert any("learned hardly anything" in text for text in sentences) == warned
