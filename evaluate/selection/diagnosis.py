"""Diagnoses what went wrong in a training run, and what guides recommend against it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.explain import FAULTS, format_likeness, format_percent
from evaluate.selection.objective import (
    MIN_LIKENESS,
    is_noise,
    paired_difference,
    violations,
)

LOW_LIKENESS = 0.5  # likeness below which only little was learned
MAX_COLOR_SHIFT = 12.0  # Delta E
MAX_CLASS_BLEED = 0.35  # share of the likeness
MIN_DETECTION_RATE = 0.8  # share of images
LOWER_RATE = "lower the learning rate by half"
TRAIN_MORE = "a higher learning rate, more epochs, or a higher rank"
GENTLER = "more images, or images that differ more: training harder would only overfit more"


class Finding(NamedTuple):
    """One diagnosis.

    Attributes:
        name: as overfitting.
        words: the observation, with figures.
        remedy: what to try.
    """

    name: str
    words: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.words}. {self.remedy[:1].upper()}{self.remedy[1:]}."


def diagnose(cards: list[Scorecard], policy: PolicyConfig) -> list[Finding]:
    """The findings in a run's scorecards, most severe first; empty if nothing is wrong.

    Only significant findings count: the whole confidence interval is on the wrong side.

    Args:
        cards: of one run; at least one.
    """
    everything = sorted(cards, key=lambda card: card.epoch)
    failed, cards = _failed(everything), usable(everything)
    if not cards:
        return failed
    last = cards[-1]
    findings = [*failed, *_broken(cards)]
    # noise shows neither what was learned nor what is repeated
    if intact := [card for card in cards if not is_noise(card)]:
        findings += [*_memorized(intact, policy), *_ignores_prompt(intact, policy)]
        findings += _likeness(intact, policy, GENTLER if findings else TRAIN_MORE)
    cast, bleed = last.scores.get("color_shift"), last.scores.get("class_bleed")
    if cast and cast.low > MAX_COLOR_SHIFT:
        findings.append(Finding(
            "color shift",
            f"at {last.label} the colors are {cast.value:.0f} Delta E off the base's",
            f"{LOWER_RATE}, or take images without a common color cast",
        ))  # fmt: skip
    if bleed and bleed.low > MAX_CLASS_BLEED:
        findings.append(Finding(
            "class bleed",
            f"without the trigger word the class already has {format_percent(bleed.value)} of the "
            f"subject's likeness at {last.label}",
            "no harm if you always want the subject; otherwise describe it in the captions, or "
            "also train on ordinary images of the class",
        ))  # fmt: skip
    growing = any(finding.name == "underfitting" for finding in findings)
    return findings if growing else findings + _plateaued(cards)


def describe(findings: list[Finding]) -> str:
    """All findings, one line each."""
    return "\n".join(map(str, findings)) or "nothing is wrong"


def plateau(cards: list[Scorecard]) -> int | None:
    """The epoch from which on the validation loss no longer falls; None while it does.

    It is the first epoch that no later one improves on by more than a standard error of the
    difference over the held-out images, if at least two scored epochs follow.
    """
    scored = [card for card in cards if len(card.by_probe.get("validation_loss", [])) > 1]
    for i, card in enumerate(scored[:-2]):
        losses = np.array(card.by_probe["validation_loss"])
        improvements = [losses - np.array(c.by_probe["validation_loss"]) for c in scored[i + 1 :]]
        if all(float(f.mean()) <= float(f.std(ddof=1)) / len(f) ** 0.5 for f in improvements):
            return card.epoch
    return None


def _failed(cards: list[Scorecard]) -> list[Finding]:
    """Checkpoints that cannot be used."""
    failed = [card for card in cards if card.failure]
    if not failed:
        return []
    where = f"at {failed[0].label}" if len(failed) == 1 else f"first at {failed[0].label}"
    count = "a checkpoint" if len(failed) == 1 else f"{len(failed)} checkpoints"
    return [Finding(
        "diverged",
        f"{count} of {len(cards)} cannot be used, {where}: {failed[0].failure}",
        f"{LOWER_RATE}; if base.precision is fp16, use bf16 or fp32",
    )]  # fmt: skip


def _memorized(cards: list[Scorecard], policy: PolicyConfig) -> list[Finding]:
    """For each score with a limit, the epoch from which on it is significantly above it."""
    findings = []
    for name, limit in policy.max.items():
        over = [card for card in cards if name in card.scores and card.scores[name].low > limit]
        if over:
            worst = max(over, key=lambda card: card.scores[name].value)
            findings.append(Finding(
                "overfitting",
                f"from {over[0].label} on significantly too many images "
                f"{FAULTS.get(name, f'are over the limit of {name}')}, "
                f"{format_percent(worst.scores[name].value)} of them at {worst.label}",
                f"{_earlier(over[0] is not cards[0])}{LOWER_RATE}, name poses and places in the "
                "captions, or add images that differ",
            ))  # fmt: skip
    return findings


def _earlier(exists: bool) -> str:
    """The first advice, if there is an earlier epoch."""
    return "keep an earlier epoch; " if exists else ""


def _ignores_prompt(cards: list[Scorecard], policy: PolicyConfig) -> list[Finding]:
    fidelity = cards[-1].scores.get("prompt_fidelity")
    if fidelity is None or fidelity.high >= policy.min.get("prompt_fidelity", 0.0):
        return []
    return [Finding(
        "overfitting",
        f"at {cards[-1].label} it follows prompts only {format_percent(max(fidelity.value, 0))} as "
        "well as the base",
        f"{_earlier(len(cards) > 1)}{LOWER_RATE}, or a smaller alpha",
    )]  # fmt: skip


def _likeness(cards: list[Scorecard], policy: PolicyConfig, advice: str) -> list[Finding]:
    """Whether too little was learned.

    Args:
        advice: what helps against it.
    """
    scored = [card for card in cards if "subject_fidelity" in card.scores]
    if not scored:
        return []
    best = max(scored, key=lambda card: card.scores["subject_fidelity"].value)
    likeness, last = best.scores["subject_fidelity"], cards[-1]
    if not has_learned(best):
        return [Finding(
            "no learning",
            f"at {last.label} it has {format_likeness(likeness.value)} of the likeness",
            f"check that the captions contain the trigger word; then {advice}",
        )]  # fmt: skip
    if likeness.high < LOW_LIKENESS:
        words = f"no epoch has more than {format_likeness(likeness.value)} of the likeness"
        return [Finding("underfitting", words, f"try {advice}")]
    clean = not any(over > 0 for over in violations(last, policy).values())
    if len(cards) > 2 and clean:
        gains = [paired_difference(last, card) for card in cards[-3:-1]]
        if all(gain.value > gain.error for gain in gains):
            words = f"it was still getting better at {last.label}"
            return [Finding("underfitting", words, "train for more epochs")]
    return []


def has_learned(card: Scorecard) -> bool:
    """Whether the likeness is not significantly too small to be of use; true if it is unknown."""
    likeness = card.scores.get("subject_fidelity")
    return likeness is None or likeness.high >= MIN_LIKENESS


def _broken(cards: list[Scorecard]) -> list[Finding]:
    last, noise = cards[-1], [card for card in cards if is_noise(card)]
    rate = last.scores.get("detection_rate")
    if rate and rate.high < MIN_DETECTION_RATE:
        first = last
        words = f"a body is found in only {format_percent(rate.value)} of the images"
    elif noise:
        first = noise[0]
        words = "the images show neither the subject nor what the prompts ask for"
    else:
        return []
    remedy = f"{_earlier(first is not cards[0])}{LOWER_RATE}"
    return [Finding("broken images", f"{words} at {first.label}", remedy)]


def _plateaued(cards: list[Scorecard]) -> list[Finding]:
    since = plateau(cards)
    if since is None or since == cards[-1].epoch:
        return []
    gap = cards[-1].scores.get("generalization_gap")
    above = f"; it is {gap.value:.3f} above the loss on training images" if gap else ""
    return [Finding(
        "validation loss is flat",
        f"the validation loss has not fallen since {cards[0].unit} {since}{above}",
        "a sign of overfitting if the other scores agree; likeness continues to grow after it",
    )]  # fmt: skip
