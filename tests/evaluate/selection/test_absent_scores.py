"""Undefined scores, and checkpoints that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch

from evaluate.config import PolicyConfig
from evaluate.metrics.base import Mean
from evaluate.metrics.fidelity import PromptFidelity, SubjectFidelity
from evaluate.metrics.losses import GeneralizationGap, ValidationLoss
from evaluate.scorecard import Estimate, Scorecard
from evaluate.selection.diagnosis import diagnose
from evaluate.selection.objective import comparison_value, constraints, fidelity
from evaluate.selection.policy import check_scores, select
from sweeper.execution.early_stopping import (
    stop_on_memorization,
    stop_on_plateau,
    stop_without_learning,
)
from tests.evaluate.selection.test_policy import card
from train.errors import ConfigError

POLICY = PolicyConfig(max={"pose_memorization": 0.3}, min={"prompt_fidelity": 0.7})
FAILURE = "32 of its 32 images are not finite numbers"


def failed(epoch: int) -> Scorecard:
    return Scorecard(Path(f"{epoch}.safetensors"), epoch, {}, failure=FAILURE)


def without_scores(items: Scorecard, *names: str) -> Scorecard:
    for name in names:
        del items.scores[name]
        items.by_probe.pop(name, None)
    return items


def unit(rows: int, seed: int) -> torch.Tensor:
    random = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(random, dim=-1)


@pytest.mark.parametrize("seed", range(10))
def test_prompt_fidelity_is_undefined_if_the_base_ignores_prompts(seed: int) -> None:
    base = torch.stack([unit(12, 1000 + seed), unit(12, 2000 + seed)])
    metric = PromptFidelity(unit(12, seed), base)
    metric.update(unit(12, 3000 + seed))
    assert metric.compute().isnan().all()
    assert "does not follow these prompts" in metric.undefined_reason
    same = PromptFidelity(unit(1, seed).repeat(6, 1), base[:, :6])
    assert same.undefined_reason == "all probes ask for the same"


@pytest.mark.parametrize("seed", range(5))
def test_subject_fidelity_is_undefined_if_training_images_are_as_far_apart_as_the_base(
    seed: int,
) -> None:
    metric = SubjectFidelity(unit(10, seed), unit(40, 100 + seed), torch.zeros(0, 32))
    metric.update(unit(12, 200 + seed), torch.ones(12, dtype=torch.bool))
    assert metric.compute().isnan().all()
    assert "resemble each other hardly more" in metric.undefined_reason
    single = SubjectFidelity(unit(1, seed), unit(40, 100 + seed), torch.zeros(0, 32))
    assert "one training image" in single.undefined_reason
    alike = unit(1, seed) + 0.05 * unit(6, 7)
    assert not SubjectFidelity(alike, unit(40, 100 + seed), torch.zeros(0, 32)).undefined_reason
    assert not SubjectFidelity(alike[:2], unit(40, 100 + seed), torch.zeros(0, 32)).undefined_reason


def test_single_observation_has_no_interval_unless_by_timestep() -> None:
    unused = Mean()
    unused.update(torch.tensor([0.5]))
    assert unused.compute().isnan().all()
    losses = torch.tensor([0.9, 0.5, 0.3, 0.1])
    loss, gap = ValidationLoss(), GeneralizationGap()
    loss.update(losses)
    gap.update(losses, losses - 0.05)
    for metric in (loss, gap):
        value, low, high = metric.compute().tolist()
        assert low < value < high


def test_failed_checkpoint_is_never_selected_and_is_mentioned() -> None:
    selection = select([card(1, 0.5, 0.1), failed(2)], POLICY)
    assert (selection.scorecard.epoch, selection.feasible) == (1, True)
    assert f"epoch 2 cannot be used: {FAILURE}" in " ".join(selection.reasons)
    for rule in ("last", "epoch", "pareto", "max_subject_fidelity"):
        policy = replace(POLICY, rule=rule, epoch=2)
        assert select([card(1, 0.5, 0.1), failed(2)], policy).scorecard.epoch == 1
    with pytest.raises(ValueError, match="no scorecard to select"):
        select([failed(1)], POLICY)
    assert "diverged: a checkpoint of 2" in str(diagnose([card(1, 0.5, 0.1), failed(2)], POLICY)[0])
    assert [finding.name for finding in diagnose([failed(1)], POLICY)] == ["diverged"]
    assert stop_on_memorization(POLICY, 2)([card(1, 0.5, 0.1), failed(2), failed(3)]).startswith(
        "diverged"
    )
    assert not stop_on_memorization(POLICY, 2)([card(1, 0.5, 0.9), failed(2), card(3, 0.5, 0.9)])


def test_objective_and_constraints_are_finite_with_fixed_names() -> None:
    full, poor = card(1, 0.5, 0.1), without_scores(card(2, 0.5, 0.1), "prompt_fidelity")
    for policy in (POLICY, PolicyConfig()):
        reported = [constraints(one, policy) for one in (full, poor, failed(3), None)]
        assert len({tuple(one) for one in reported}) == 1
        assert all(any(value > 0 for value in one.values()) for one in reported[2:])
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
        for one in reported:
            trial = study.ask()
            for name, value in one.items():
                trial.set_constraint(name, value)
            study.tell(trial, 0.0)


def test_selection_without_prompt_fidelity_uses_subject_fidelity() -> None:
    cards = [
        without_scores(card(e, s, 0.1), "prompt_fidelity")
        for e, s in ((1, 0.2), (2, 0.6), (3, 0.4))
    ]
    selection = select(cards, POLICY)
    assert (selection.scorecard.epoch, selection.fidelity) == (2, pytest.approx(0.6))
    assert "the likeness alone decides" in " ".join(selection.reasons)
    assert "The minimum of prompt_fidelity was not checked" in " ".join(selection.reasons)


def test_without_likeness_the_loss_decides_and_without_a_loss_the_last_epoch() -> None:
    cards = [without_scores(card(epoch, 0.5, 0.1), "subject_fidelity") for epoch in (1, 2, 3)]
    cards.append(without_scores(card(4, 0.5, 0.9), "subject_fidelity"))
    pick = select(cards, POLICY)
    assert (pick.scorecard.epoch, pick.fidelity) == (3, None)
    assert "the last epoch within the limits is selected" in " ".join(pick.reasons)
    assert not stop_without_learning(0.5, 4)(cards)
    assert not stop_on_plateau(POLICY, 1)(cards)
    for one, loss in zip(cards, (0.4, 0.2, 0.3, 0.1), strict=True):
        one.scores["validation_loss"] = Estimate(loss, loss - 0.1, loss + 0.1)
        one.by_probe["validation_loss"] = [loss - 0.1, loss + 0.1]
    selection = select(cards, POLICY)
    assert selection.scorecard.epoch == 2
    assert comparison_value(cards[1]) > comparison_value(cards[2]) > 0
    assert fidelity(cards[1]) is None
    assert "the loss on the held-out images decides" in " ".join(selection.reasons)


def test_rules_without_a_score_or_an_epoch() -> None:
    weights = {"prompt_fidelity": 1.0, "subject_fidelity": 1.0}
    weighted = PolicyConfig(rule="weighted", weights=weights)
    cards = [without_scores(card(e, e / 4, 0.1), "prompt_fidelity") for e in (1, 2)]
    selection = select(cards, weighted)
    assert selection.scorecard.epoch == 2
    assert (
        "Left out of the sum because it cannot be measured: prompt_fidelity." in selection.reasons
    )
    check_scores(weighted, ["subject_fidelity"])
    with pytest.raises(ConfigError, match="there is no subject_fidelity"):
        check_scores(PolicyConfig(rule="max_subject_fidelity"), ["prompt_fidelity"])
    early = select([card(2, 0.5, 0.1), card(4, 0.5, 0.1)], PolicyConfig(rule="epoch", epoch=1))
    assert early.scorecard.epoch == 2
    assert "epoch 1 was asked for" in early.reasons[0]


def test_older_scorecards_load_without_scores_that_are_not_finite() -> None:
    saved = card(1, 0.5, 0.1).to_dict()
    del saved["failure"]
    saved["scores"]["color_shift"] = {"value": float("nan"), "low": 0.0, "high": 0.0}
    loaded = Scorecard.from_dict(json.loads(json.dumps(saved)))
    assert not loaded.failure
    assert "color_shift" not in loaded.scores
    del saved["scores"]["prompt_fidelity"]  # what was saved of NaN images
    poisoned = Scorecard.from_dict(json.loads(json.dumps(saved)))
    assert (poisoned.failure, poisoned.scores) == ("its images could not be scored", {})
