"""Findings about runs that went wrong."""

from __future__ import annotations

from evaluate.config import PolicyConfig
from evaluate.scorecard import Estimate, Scorecard
from evaluate.selection.diagnosis import diagnose, plateau
from tests.evaluate.selection.test_policy import card

POLICY = PolicyConfig(max={"pose_memorization": 0.35}, min={"prompt_fidelity": 0.7})


def names(cards: list[Scorecard]) -> list[str]:
    return [finding.name for finding in diagnose(cards, POLICY)]


def with_score(items: Scorecard, name: str, value: float, width: float = 0.02) -> Scorecard:
    items.scores[name] = Estimate(value, value - width, value + width)
    return items


def test_good_run_has_no_findings() -> None:
    assert names([card(1, 0.5, 0.0), card(2, 0.7, 0.1), card(3, 0.7, 0.1)]) == []


def test_overfitting_is_named_with_its_epoch_and_the_remedy() -> None:
    cards = [card(1, 0.6, 0.0), card(2, 0.7, 0.2), card(3, 0.8, 0.6), card(4, 0.9, 0.9)]
    result = diagnose(cards, POLICY)
    assert [f.name for f in result] == ["overfitting"]
    assert "from epoch 3 on" in result[0].words
    assert "90% of them at epoch 4" in result[0].words
    assert "lower the learning rate by half" in str(result[0])


def test_insignificant_findings_are_not_reported() -> None:
    assert names([card(1, 0.6, 0.4, width=0.1)]) == []


def test_diagnosis_of_no_learning_and_underfitting() -> None:
    assert names([card(1, 0.01, 0.0), card(2, 0.04, 0.0)]) == ["no learning"]
    result = diagnose([card(1, 0.2, 0.0), card(2, 0.3, 0.0)], POLICY)
    assert [f.name for f in result] == ["underfitting"]
    assert "a higher rank" in result[0].remedy
    rising = [card(e, 0.4 + 0.1 * e, 0.0, chance=0.02) for e in (1, 2, 3)]
    assert "still getting better at epoch 3" in str(diagnose(rising, POLICY)[0])


def test_other_findings_have_their_names() -> None:
    one = card(1, 0.7, 0.0)
    assert names([with_score(one, "color_shift", 20, 2)]) == ["color shift"]
    assert names([with_score(card(1, 0.7, 0), "class_bleed", 0.6)]) == ["class bleed"]
    assert names([with_score(card(1, 0.7, 0), "detection_rate", 0.5)]) == ["broken images"]
    assert names([with_score(card(1, 0.7, 0), "prompt_fidelity", 0.4)]) == ["overfitting"]


def test_noise_is_named_as_such_and_not_as_too_little_learning_or_overfitting() -> None:
    noise = with_score(card(2, -0.2, 0.8), "prompt_fidelity", 0.1)
    (finding,) = diagnose([noise], POLICY)
    assert finding.name == "broken images"
    assert "neither the subject nor what the prompts ask for at epoch 2" in finding.words
    assert "higher" not in finding.remedy
    assert "earlier" not in finding.remedy
    after_overfitting = diagnose([card(1, 0.7, 0.8), noise], POLICY)
    assert [f.name for f in after_overfitting] == ["broken images", "overfitting"]
    assert "80% of them at epoch 1" in after_overfitting[1].words
    assert "keep an earlier epoch" in after_overfitting[0].remedy


def test_overfitted_run_that_learned_little_is_not_told_to_train_harder() -> None:
    findings = diagnose([card(1, 0.2, 0.8), card(2, 0.3, 0.9)], POLICY)
    assert [f.name for f in findings] == ["overfitting", "underfitting"]
    assert "images that differ" in findings[1].remedy
    assert not any("higher" in f.remedy for f in findings)


def test_plateau_of_the_validation_loss() -> None:
    losses = [0.2, 0.5, 0.3, 0.6]
    cards = []
    for epoch, loss in enumerate((0.10, 0.05, 0.0, 0.001, -0.0005, 0.02), start=1):
        one = card(epoch, 0.7, 0.0)
        chance = [0.002 * (-1) ** (i + epoch // 2) for i in range(4)]
        one.by_probe["validation_loss"] = [
            p + loss + c for p, c in zip(losses, chance, strict=True)
        ]
        cards.append(one)
    assert plateau(cards) == 3
    assert plateau(cards[:3]) is None
    assert names(cards) == ["validation loss is flat"]
