"""A final between checkpoints: who is dropped, who is kept, how sure that is, and that it can be
decided again from its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluate.config import FinalConfig, PolicyConfig
from evaluate.intervals import wilson
from evaluate.scorecard import FIDELITIES, Estimate, Scorecard
from evaluate.selection.contenders import contender_groups
from evaluate.selection.final_rounds import play
from evaluate.selection.policy import select
from evaluate.selection.verdict import (
    Finalist,
    Verdict,
    limit_probabilities,
    probability_within,
)
from evaluate.verdict_file import VERDICT_FILE, load_final, replay, save_verdict
from train.files.untrusted import UntrustedFileError

POLICY = PolicyConfig(max={"pose_memorization": 0.3}, min={"prompt_fidelity": 0.5})
CONFIG = FinalConfig(contenders=8, probes=96, rounds=4)
Truth = tuple[float, float]  # likeness, memorized share


def card(epoch: int, truth: Truth, probes: int, seed: int = 0) -> Scorecard:
    """A scorecard whose probes differ in the same way for every checkpoint."""
    likeness, memorized = truth
    shared, own = np.random.default_rng(seed), np.random.default_rng((seed, epoch))
    subject = likeness + shared.normal(0, 0.1, 96) + own.normal(0, 0.05, 96)
    repeats = own.random(96) < memorized
    subject, repeats = subject[:probes], repeats[:probes]
    share = float(repeats.mean())
    error = float(subject.std() / probes**0.5)
    value = float(subject.mean())
    return Scorecard(
        Path(f"{epoch}.safetensors"),
        epoch,
        {
            "prompt_fidelity": Estimate(0.9, 0.85, 0.95),
            "subject_fidelity": Estimate(value, value - 1.6 * error, value + 1.6 * error),
            "pose_memorization": Estimate(share, *wilson(share, probes, 0.9)),
        },
        {"prompt_fidelity": [0.9] * probes, "subject_fidelity": subject.tolist(),
         "pose_memorization": repeats.astype(float).tolist()},
    )  # fmt: skip


def hold(
    truths: dict[int, Truth],
    config: FinalConfig = CONFIG,
    seed: int = 1,
    groups: dict[int, int] | None = None,
) -> Verdict:
    """A final between checkpoints with these true scores, by epoch.

    Args:
        groups: of contenders, by epoch; by default all are in the first.
    """
    groups = groups or {}
    finalists = [Finalist(card(e, t, 24), (e,), group=groups.get(e, 0)) for e, t in truths.items()]

    def score(look: int, finalist: Finalist) -> None:
        epoch, probes = finalist.first.epoch, look * config.probes // config.rounds
        finalist.cards.append(card(epoch, truths[epoch], probes, seed))

    verdict = play(finalists, score, config, POLICY)
    assert verdict
    return verdict


def test_contenders_may_be_within_the_limits_and_the_best() -> None:
    truths = {1: (0.2, 0.0), 2: (0.62, 0.1), 3: (0.62, 0.15), 4: (0.9, 0.9)}
    cards = [card(epoch, truth, 24) for epoch, truth in truths.items()]

    def epochs(size: int) -> list[set[int]]:
        return [{c.epoch for c in group} for group in contender_groups(cards, POLICY, size)]

    assert epochs(8) == [{2, 3}, {1}], "the last one is over a limit for certain"
    assert [len(group) for group in epochs(1)] == [1, 1, 1]
    over = [card(epoch, (0.6, 0.95), 24) for epoch in (1, 2)]
    assert contender_groups(over, POLICY, 8) == [], "all are over a limit for certain"
    failed = Scorecard(Path("5.safetensors"), 5, {}, failure="not finite")
    assert contender_groups([failed], POLICY, 8) == []


def test_the_next_group_has_its_turn_only_if_the_first_is_over_a_limit() -> None:
    groups = {2: 1, 3: 2}
    verdict = hold({1: (0.8, 0.4), 2: (0.6, 0.02), 3: (0.5, 0.02)}, groups=groups)
    assert verdict.winner.first.epoch == 2
    assert [len(f.cards) > 0 for f in verdict.finalists] == [True, True]
    within = hold({1: (0.6, 0.02), 2: (0.8, 0.02)}, groups={2: 1})
    assert within.winner.first.epoch == 1
    assert [f.first.epoch for f in within.finalists] == [1]
    all_over = hold({1: (0.8, 0.9), 2: (0.6, 0.6)}, groups={2: 1})
    assert all_over.winner.first.epoch == 2, "the least violation of all groups"


def test_a_clear_winner_ends_the_final_early() -> None:
    verdict = hold({1: (0.4, 0.05), 2: (0.7, 0.05), 3: (0.5, 0.05)})
    assert verdict.winner.first.epoch == 2
    assert verdict.winner.probability > 0.99
    assert len(verdict.winner.cards) < CONFIG.rounds
    assert all("behind after round" in f.out for f in verdict.finalists if f is not verdict.winner)
    assert verdict.lead == pytest.approx((0.9 * 0.7) ** 0.5 - (0.9 * 0.5) ** 0.5, abs=0.03)


def test_equals_are_called_ties_and_the_earliest_is_kept() -> None:
    config = FinalConfig(probes=96, rounds=4, tolerance=0.03)
    verdict = hold({3: (0.6, 0.05), 4: (0.6, 0.05), 9: (0.6, 0.05)}, config)
    assert verdict.winner.first.epoch == 3
    assert [f.first.epoch for f in verdict.ties] == [4, 9]


def test_a_finalist_over_a_limit_is_not_kept_however_good_it_is() -> None:
    verdict = hold({1: (0.6, 0.02), 2: (0.9, 0.6)})
    assert verdict.winner.first.epoch == 1
    assert "over a limit after round" in verdict.finalists[1].out
    everybody_over = hold({1: (0.6, 0.5), 2: (0.9, 0.8)})
    assert everybody_over.winner.first.epoch == 1, "the least violation"
    assert "WARNING" in select([f.first for f in everybody_over.finalists], POLICY,
                               everybody_over).reasons[0]  # fmt: skip


def test_a_finalist_that_is_not_certainly_within_the_limits_does_not_compete() -> None:
    verdict = hold({1: (0.5, 0.02), 2: (0.7, 0.22)})
    better = verdict.finalists[1]
    assert not better.out, "its limit is neither certainly kept nor certainly exceeded"
    assert (verdict.winner.first.epoch, verdict.winner.probability) == (1, 1.0)
    assert better.probability == 0
    assert verdict.runner_up is None
    first = select([f.first for f in verdict.finalists], POLICY, verdict).reasons[0]
    assert "Epoch 1 was the only one of 2 contenders that is certainly within the limits" in first
    with_third = hold({1: (0.5, 0.02), 2: (0.7, 0.22), 3: (0.47, 0.02)})
    assert with_third.runner_up
    assert with_third.runner_up.first.epoch == 3
    assert with_third.lead >= 0


def test_sentences_without_limits() -> None:
    policy = PolicyConfig()
    verdict = replay(hold({1: (0.5, 0.02), 2: (0.7, 0.22)}).finalists, CONFIG, policy)
    assert verdict
    reasons = select([f.first for f in verdict.finalists], policy, verdict).reasons
    assert verdict.winner.first.epoch == 2
    assert not [text for text in reasons if "; ." in text or ", ." in text]


def test_the_selection_reports_fresh_scores_and_says_how_sure_it_is() -> None:
    verdict = hold({1: (0.60, 0.05), 2: (0.62, 0.05), 3: (0.3, 0.05)})
    cards = [f.first for f in verdict.finalists]
    selection = select(cards, POLICY, verdict)
    assert selection.scorecard is verdict.winner.first
    assert (
        selection.reported.scores["subject_fidelity"]
        == (verdict.winner.final.scores["subject_fidelity"])
    )
    assert selection.feasible
    first, *_, last = selection.reasons
    assert f"won the final of 3 contenders on {verdict.prompts} fresh prompts" in first
    assert "with a probability of" in first
    assert "limit" in last


def test_probabilities_of_limits_follow_the_interval() -> None:
    estimate = Estimate(0.1, 0.04, 0.2)
    assert probability_within(estimate, 0.2, 0.9) == pytest.approx(0.95)
    assert probability_within(estimate, 0.04, 0.9) == pytest.approx(0.05)
    assert probability_within(Estimate(0.1, 0.1, 0.1), 0.2, 0.9) == 1
    held = limit_probabilities(card(1, (0.6, 0.0), 96), POLICY)
    assert held.keys() == {"pose_memorization", "prompt_fidelity"}
    assert min(held.values()) > 0.95


def test_a_saved_final_is_decided_again_under_other_limits(tmp_path: Path) -> None:
    truths = {1: (0.50, 0.02), 2: (0.56, 0.14), 3: (0.3, 0.02)}
    verdict, file = hold(truths), tmp_path / VERDICT_FILE
    assert verdict.winner.first.epoch == 2
    save_verdict(file, "key", verdict, CONFIG, POLICY)
    content = json.loads(file.read_text())
    assert content["winner"]["epoch"] == 2
    assert content["runner_up"]["epoch"] in (1, 3)
    assert content["probability"] == verdict.winner.probability
    saved = load_final(file)
    assert saved
    assert (saved.key, saved.config) == ("key", CONFIG)
    again = replay(saved.finalists, saved.config, POLICY)
    assert again
    assert [(f.out, f.probability) for f in again.finalists] == [
        (f.out, f.probability) for f in verdict.finalists
    ]
    moved = saved.finalists[0].of(replace(verdict.finalists[0].first, checkpoint=Path("moved")))
    assert {card.checkpoint for card in moved.cards} == {Path("moved")}
    strict = replay(saved.finalists, saved.config, PolicyConfig(max={"pose_memorization": 0.1}))
    assert strict
    assert strict.winner.first.epoch == 1


def test_the_reason_why_a_finalist_was_not_scored_is_kept(tmp_path: Path) -> None:
    verdict, file = hold({1: (0.5, 0.02), 2: (0.56, 0.02)}), tmp_path / VERDICT_FILE
    failed = Finalist(card(3, (0.5, 0.0), 24), (3,), failure="broken", out="broken")
    verdict.finalists.append(failed)
    save_verdict(file, "key", verdict, CONFIG, POLICY)
    saved = load_final(file)
    assert saved
    again = replay(saved.finalists, CONFIG, POLICY)
    assert again
    assert [f.out for f in again.finalists][-1] == "broken"


Saved = dict[str, Any]


def _set(content: Saved, finalist: int, where: str, value: object) -> None:
    card = content["finalists"][finalist]["cards"][-1]
    if where == "by_probe":
        card["by_probe"] = value
    else:
        card["by_probe"][where] = value


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: _set(c, 0, "by_probe", {}), "same probes"),
        (lambda c: _set(c, 1, "prompt_fidelity", [0.9]), "different probes|same probes"),
        (lambda c: [f["cards"][-1].update(by_probe={n: [1.0] for n in FIDELITIES})
                    for f in c["finalists"]], "same probes"),
        (lambda c: c["final"].update(error_rate=9), "error_rate"),
        (lambda c: c["final"].update(error_rate=0), "error_rate"),
        (lambda c: c["final"].update(rounds=1), "more rounds"),
        (lambda c: c["final"].update(tolerance=float("nan")), "tolerance|NaN|verdict"),
        (lambda c: c["finalists"][0]["first"].update(by_probe={}, scores={}), "same scores"),
        (lambda c: c["finalists"].extend([c["finalists"][0]] * 200), "verdict"),
        (lambda c: c["finalists"][0]["first"].update(strength=-1), "strength"),
        (lambda c: c["finalists"][0]["first"].update(averaged=0), "averaged"),
    ],
)  # fmt: skip
def test_a_verdict_that_cannot_be_decided_is_refused(
    damage: Callable[[Saved], object], words: str, tmp_path: Path
) -> None:
    file = tmp_path / VERDICT_FILE
    save_verdict(file, "key", hold({1: (0.5, 0.02), 2: (0.51, 0.02)}), CONFIG, POLICY)
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UntrustedFileError, match=words):
        load_final(file)


@pytest.mark.parametrize(
    "damage", ["", "{}", '{"key": 1}', '{"key": "", "final": {}, "finalists": 3}']
)
def test_a_damaged_verdict_is_refused(damage: str, tmp_path: Path) -> None:
    file = tmp_path / VERDICT_FILE
    assert load_final(file) is None
    file.write_text(damage)
    with pytest.raises(UntrustedFileError, match="verdict"):
        load_final(file)
