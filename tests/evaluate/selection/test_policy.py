"""Which checkpoint each rule selects, and the reasons it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from evaluate.config import PolicyConfig, check_policy
from evaluate.scorecard import Estimate, Scorecard
from evaluate.selection.explain import describe_exceeded
from evaluate.selection.objective import fidelity, paired_difference, violations
from evaluate.selection.policy import check_scores, rank_of, select
from train.errors import ConfigError

POLICY = PolicyConfig(max={"pose_memorization": 0.3})
PROBES = 24


def card(
    epoch: int, subject: float, memorized: float, width: float = 0.05, chance: float = 0.0
) -> Scorecard:
    """Probes differ a lot, in the same way for every card; `chance` is the noise of one card."""
    own, probes = Random(epoch), Random(0)
    values = [subject + probes.gauss(0, 0.2) + own.gauss(0, chance) for _ in range(PROBES)]
    shift = subject - sum(values) / PROBES
    scores = {"prompt_fidelity": 1.0, "subject_fidelity": subject, "pose_memorization": memorized}
    return Scorecard(
        Path(f"{epoch}.safetensors"),
        epoch,
        {name: Estimate(v, v - width, v + width) for name, v in scores.items()},
        {"prompt_fidelity": [1.0] * PROBES, "subject_fidelity": [v + shift for v in values]},
    )


def test_best_checkpoint_within_the_limits_wins() -> None:
    cards = [card(1, 0.2, 0.0), card(2, 0.6, 0.1), card(3, 0.9, 0.8)]
    selection = select(cards, POLICY)
    assert (selection.scorecard.epoch, selection.feasible) == (2, True)
    assert "80% of the images come close to a training pose" in selection.later


def test_upper_bound_is_compared_with_the_limit() -> None:
    selection = select([card(1, 0.5, 0.1), card(2, 0.9, 0.29)], POLICY)
    assert selection.scorecard.epoch == 1
    assert violations(card(2, 0.9, 0.29), POLICY)["pose_memorization"] == pytest.approx(0.04)


def test_earliest_of_statistically_equal_checkpoints_wins() -> None:
    cards = [card(1, 0.3, 0, chance=0.2), card(2, 0.58, 0, chance=0.2), card(3, 0.6, 0, chance=0.2)]
    assert select(cards, POLICY).scorecard.epoch == 2
    assert "no later epoch beats" in select(cards, POLICY).reasons[0]
    assert select(cards, replace(POLICY, standard_errors=0.0)).scorecard.epoch == 3


def test_small_lead_on_every_probe_is_significant() -> None:
    """The intervals are wide because probes differ, but each probe is a little better."""
    cards = [card(1, 0.3, 0, width=0.2), card(2, 0.58, 0, width=0.2), card(3, 0.6, 0, width=0.2)]
    assert select(cards, PolicyConfig()).scorecard.epoch == 3
    ahead = paired_difference(cards[2], cards[1])
    assert ahead.value == pytest.approx(0.6**0.5 - 0.58**0.5)
    assert ahead.error < ahead.value / 3


def test_checkpoint_that_ignores_prompts_is_not_feasible() -> None:
    ignoring_prompt = card(2, 0.9, 0.0)
    ignoring_prompt.scores["prompt_fidelity"] = Estimate(0.72, 0.66, 0.78)
    policy = replace(POLICY, min={"prompt_fidelity": 0.7})
    selection = select([card(1, 0.5, 0.0), ignoring_prompt], policy)
    assert (selection.scorecard.epoch, selection.feasible) == (1, True)
    assert selection.later == "at epoch 2 prompts are followed only 72% as well as by the base"
    single = select([ignoring_prompt], policy)
    assert "72% (possibly only 66%; the minimum is 70%) as well as" in single.reasons[0]


def test_exceeded_limits_are_named_with_the_bound_that_counts() -> None:
    over = card(1, 0.5, 0.2, width=0.4)
    over.scores["prompt_fidelity"] = Estimate(0.72, 0.66, 0.78)
    policy = PolicyConfig(max={"pose_memorization": 0.3}, min={"prompt_fidelity": 0.7})
    high = over.scores["pose_memorization"].high
    assert describe_exceeded(over, policy) == f"pose_memorization may be {high:.3f} (limit 0.3)"
    over.scores["prompt_fidelity"] = Estimate(0.2, 0.1, 0.3)
    assert describe_exceeded(over, policy) == "prompt_fidelity may be 0.100 (minimum 0.7)"
    assert describe_exceeded(card(1, 0.5, 0.0), POLICY) == ""


def test_warning_if_no_checkpoint_is_feasible() -> None:
    selection = select([card(1, 0.5, 0.7), card(2, 0.9, 0.9)], POLICY)
    assert (selection.scorecard.epoch, selection.feasible) == (1, False)
    assert "WARNING" in selection.reasons[0]
    assert "90% of the images come close to a training pose" in selection.later


def test_noise_is_never_kept_and_never_on_the_front() -> None:
    """Noise has no body and so no pose that could be repeated."""
    noise = card(2, -0.3, 0.0, width=0.36)
    noise.scores["prompt_fidelity"] = Estimate(0.1, 0.0, 0.2)
    over = card(1, 0.5, 0.9)
    selection = select([over, noise], POLICY)
    assert (selection.scorecard.epoch, selection.feasible) == (1, False)
    assert [c.epoch for c in selection.front] == [1]
    assert rank_of(noise, POLICY) < rank_of(over, POLICY)
    assert select([noise], POLICY).scorecard.epoch == 2


def test_wide_interval_alone_is_not_reported_as_a_fault() -> None:
    selection = select([card(1, 0.5, 0.1, width=0.4), card(2, 0.5, 0.1, width=0.4)], POLICY)
    assert not selection.feasible
    assert selection.later == ""


def test_other_selection_rules() -> None:
    cards = [card(1, 0.4, 0.0), card(2, 0.6, 0.2), card(3, 0.9, 0.8), card(4, 0.7, 0.9)]
    for c, loss in zip(cards, (0.3, 0.4, 0.2, 0.5), strict=True):
        c.scores["validation_loss"] = Estimate(loss, loss, loss)

    def kept(rule: str, **more: object) -> int:
        policy = replace(POLICY, rule=rule, **more)  # type: ignore[arg-type]
        return select(cards, policy).scorecard.epoch

    assert kept("last") == 4
    assert kept("epoch", epoch=2) == 2
    assert kept("epoch", epoch=20) == 4
    beyond = select(cards, replace(POLICY, rule="epoch", epoch=20)).reasons[0]
    assert "the last that was scored up to epoch 20" in beyond
    assert kept("max_subject_fidelity") == 3
    assert kept("min_validation_loss") == 3
    assert kept("weighted", weights={"subject_fidelity": 1, "pose_memorization": -1}) == 1
    assert kept("pareto") == 2
    assert [c.epoch for c in select(cards, POLICY).front] == [1, 2, 3]
    assert "WARNING: 90%" in select(cards, replace(POLICY, rule="last")).reasons[1]
    with pytest.raises(ValueError, match="0 is before the first scored, 1"):
        kept("epoch", epoch=0)


def test_rule_error_names_the_missing_score() -> None:
    with pytest.raises(ConfigError, match="no validation_loss without held-out images"):
        check_scores(PolicyConfig(rule="min_validation_loss"), ["prompt_fidelity"])
    with pytest.raises(ValueError, match="no validation_loss; hold out images"):
        select([card(1, 0.5, 0.1)], PolicyConfig(rule="min_validation_loss"))


def test_limit_of_an_undefined_score_does_not_apply() -> None:
    limits = {"pose_memorization": 0.3, "background_leak": 0.3}
    selection = select([card(1, 0.5, 0.1)], PolicyConfig(max=limits))
    assert selection.feasible
    assert "background" not in selection.reasons[1]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (PolicyConfig(rule="lats"), "selection.rule: there is no lats; did you mean last"),
        (PolicyConfig(rule="epoch"), "selection.epoch"),
        (PolicyConfig(max={"pose_memorisation": 0.1}), "did you mean pose_memorization"),
        (PolicyConfig(rule="weighted"), "selection.weights"),
        (PolicyConfig(weights={"copyng": 1.0}), "selection.weights: there is no copyng; did you"),
    ],
)
def test_impossible_policies_are_rejected(policy: PolicyConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_policy(policy)


def test_fidelity_is_the_geometric_mean() -> None:
    assert fidelity(card(1, 0.25, 0.0)) == pytest.approx(0.5)


def test_scorecard_json_round_trip() -> None:
    assert Scorecard.from_dict(card(3, 0.5, 0.1).to_dict()) == card(3, 0.5, 0.1)
