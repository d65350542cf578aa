"""Explains in plain sentences why a finalist is kept, and how sure that is."""

from __future__ import annotations

from evaluate.config import PolicyConfig
from evaluate.selection.explain import (
    describe_faults,
    describe_learning,
    exceeded,
    format_percent,
)
from evaluate.selection.verdict import Finalist, Verdict, limit_probabilities

SURE = 0.995  # a probability from here on is called certain


def explain_verdict(verdict: Verdict, later: str, policy: PolicyConfig) -> list[str]:
    """Sentences: how the final ended, what the winner does well, and whether the limits hold."""
    card = verdict.reported
    over = exceeded(card, policy)
    faults = describe_faults(card, [n for n in policy.max if n in card.scores], policy)
    ending = f", while {later}" if later else ""
    if over:
        return [
            "WARNING: no finalist is within all limits for certain; "
            f"{card.label} is over by the least: {describe_faults(card, over, policy)}.",
            f"{card.label.capitalize()} {describe_learning(card)}{ending}.",
            *describe_limits(verdict, policy),
        ]
    return [
        f"{describe_final(verdict)}.",
        f"{card.label.capitalize()} {describe_learning(card)}{faults and f'; {faults}'}{ending}.",
        *describe_limits(verdict, policy),
    ]


def describe_final(verdict: Verdict, name: str = "") -> str:
    """How the final ended, without a full stop.

    Args:
        name: of the winner; by default its label.
    """
    winner, other = verdict.winner, verdict.runner_up
    name = name or winner.first.label.capitalize()
    if other is None:
        count = len(verdict.finalists)
        alone = f"one of {count} contenders that is certainly within the limits"
        alone = "contender" if count == 1 else alone
        return f"{name} was the only {alone}, and was scored on {verdict.prompts} fresh prompts"
    sentence = (
        f"{name} won the final of {len(verdict.finalists)} contenders on {verdict.prompts} fresh "
        f"prompts: with a probability of {_probability(winner)} no other one is better by more "
        f"than {verdict.tolerance:g}"
    )
    if verdict.ties:
        count = len(verdict.ties)
        others = "one other is" if count == 1 else f"{count} others are"
        return f"{sentence}; {others} tied with it, and it is the earliest or has the lowest rank"
    return f"{sentence}; the runner-up, {other.label}, is {verdict.lead:.3f} behind"


def _probability(finalist: Finalist) -> str:
    return "almost 100%" if finalist.probability >= SURE else format_percent(finalist.probability)


def describe_limits(verdict: Verdict, policy: PolicyConfig) -> list[str]:
    """The limit that is the least certain to hold, in a sentence; without limits none."""
    probabilities = limit_probabilities(verdict.reported, policy)
    if not probabilities:
        return []
    name = min(probabilities, key=lambda key: probabilities[key])
    if probabilities[name] >= SURE:
        return ["Every limit holds almost certainly."]
    sure = format_percent(probabilities[name])
    if exceeded(verdict.reported, policy):
        return [f"The limit of {name} holds with a probability of {sure}."]
    return [
        f"Every limit holds; the least certain is that of {name}, with a probability of {sure}."
    ]
