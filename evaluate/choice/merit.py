"""What a checkpoint is worth, and by how much two of them differ: pure functions of scorecards."""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard

RESAMPLES = 500
FIDELITIES = ("prompt_fidelity", "subject_fidelity")
MEMORY = "pose_memorization"


class Lead(NamedTuple):
    """By how much the fidelity of one checkpoint is above another's, with its standard error."""

    value: float
    error: float


def fidelity(card: Scorecard) -> float:
    """How well a checkpoint does both of its jobs: sqrt(prompt_fidelity * subject_fidelity)."""
    prompt, subject = (max(card.scores[name].value, 0.0) for name in FIDELITIES)
    return sqrt(prompt * subject)


def lead(card: Scorecard, other: Scorecard) -> Lead:
    """How far `card` is ahead of `other`.

    Both have made the same probes, so the error is that of the paired difference: the standard
    deviation over bootstrap resamples of the probes, each taken from both. It is a fraction of
    what the two intervals would tell, as probes differ more than checkpoints do.
    """
    error = float((_resampled(card) - _resampled(other)).std())
    return Lead(fidelity(card) - fidelity(other), error)


def _resampled(card: Scorecard) -> Tensor:
    """(RESAMPLES,) fidelities, the same resamples for every card."""
    return _fidelities(*(tuple(card.by_probe[name]) for name in FIDELITIES))


@lru_cache(maxsize=1000)
def _fidelities(prompt: tuple[float, ...], subject: tuple[float, ...]) -> Tensor:
    """Kept: each of a trial's checkpoints is compared to the others after every epoch."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(prompt), (RESAMPLES, len(prompt)), generator=generator)
    means = [torch.tensor(values)[index].mean(1).clamp_min(0) for values in (prompt, subject)]
    return (means[0] * means[1]).sqrt()


def violations(card: Scorecard, policy: PolicyConfig) -> dict[str, float]:
    """By how much the worse confidence bound is beyond each limit or floor; <= 0 is feasible.

    A score that cannot be told has no limit: where the training pictures show every background
    there is none to leak.
    """
    scores = card.scores
    over = {n: scores[n].high - limit for n, limit in policy.limits.items() if n in scores}
    return over | {n: floor - scores[n].low for n, floor in policy.floors.items() if n in scores}


def excess(card: Scorecard, policy: PolicyConfig) -> float:
    """By how much it is over its limits, all together; 0 is feasible."""
    return sum(max(0.0, over) for over in violations(card, policy).values())


def merit(card: Scorecard, policy: PolicyConfig) -> float:
    """What the policy's rule wants most of, to compare the checkpoints of different trials too.

    Raises:
        ValueError: a score that the scorecard does not have.
    """
    wanted = {
        "min_validation_loss": {"validation_loss": -1.0},
        "max_subject_fidelity": {"subject_fidelity": 1.0},
        "weighted": policy.weights,
    }.get(policy.rule)
    if wanted is None:
        return fidelity(card)
    for name in wanted:
        if name not in card.scores:
            hint = "; hold out pictures for it" if name == "validation_loss" else ""
            raise ValueError(f"policy.rule {policy.rule}: the scorecards have no {name}{hint}")
    return sum(weight * card.scores[name].value for name, weight in wanted.items())


def pareto(cards: list[Scorecard]) -> list[Scorecard]:
    """Those that no other beats in fidelity and pose_memorization at once, least of it first."""
    front: list[Scorecard] = []
    for card in sorted(cards, key=lambda c: (_memory(c), -fidelity(c), c.epoch)):
        if not front or fidelity(card) > fidelity(front[-1]):
            front.append(card)
    return front


def _memory(card: Scorecard) -> float:
    return card.scores[MEMORY].value if MEMORY in card.scores else 0.0
