"""What a checkpoint is worth, and by how much two of them differ: pure functions of scorecards."""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluate.config import PolicyConfig
from evaluate.scorecard import FIDELITIES, Scorecard

RESAMPLES = 500
MEMORY, LOSS = "pose_memorization", "validation_loss"
UNSCORED = "unscored"  # the constraint of a search whose policy has neither limits nor floors


class PairedDifference(NamedTuple):
    """By how much the worth of one checkpoint is above another's, with its standard error."""

    value: float
    error: float


def deciding(card: Scorecard) -> tuple[str, ...]:
    """The scores that tell how good a checkpoint is.

    Both fidelities; likeness alone, where obedience cannot be told. Obedience alone does not tell:
    it is best where nothing is learned. So without a likeness it is the validation loss; without
    held-out pictures nothing is left, and the tuple is empty.
    """
    if FIDELITIES[1] in card.scores:
        return tuple(name for name in FIDELITIES if name in card.scores)
    return (LOSS,) if LOSS in card.scores else ()


def fidelity(card: Scorecard) -> float | None:
    """How well a checkpoint does both of its jobs: sqrt(prompt_fidelity * subject_fidelity).

    Where obedience cannot be told, likeness alone; None where likeness cannot.
    """
    if FIDELITIES[1] not in card.scores:
        return None
    values = [max(card.scores[name].value, 0.0) for name in deciding(card)]
    return sqrt(values[0] * values[1]) if len(values) > 1 else values[0]


def worth(card: Scorecard) -> float:
    """What checkpoints are compared by, from 0, the worst: see `deciding`.

    The fidelity; else exp(-validation loss); else 0 for all.
    """
    value = fidelity(card)
    if value is not None:
        return value
    return exp(-card.scores[LOSS].value) if LOSS in card.scores else 0.0


def paired_difference(card: Scorecard, other: Scorecard) -> PairedDifference:
    """How far `card` is ahead of `other`.

    Both have made the same probes, so the error is that of the paired difference: the standard
    deviation over bootstrap resamples of the probes, each taken from both. It is a fraction of
    what the two intervals would tell, as probes differ more than checkpoints do.
    """
    error = float((_resampled(card) - _resampled(other)).std(ddof=1))
    return PairedDifference(worth(card) - worth(other), error)


def _resampled(card: Scorecard) -> NDArray[np.float64]:
    """(RESAMPLES,) worths, the same resamples for every card."""
    names = deciding(card)
    observed = [tuple(card.by_probe.get(name, ())) for name in names]
    if not all(observed) or not names:
        return np.zeros(RESAMPLES)
    return _worths(names == (LOSS,), *observed)


@lru_cache(maxsize=1000)
def _worths(losses: bool, *observed: tuple[float, ...]) -> NDArray[np.float64]:
    """Kept: each of a trial's checkpoints is compared to the others after every epoch."""
    count = len(observed[0])
    # torch.randint would draw the same, of the seed 0
    drawn = np.random.RandomState(0).randint(0, 2**32, (RESAMPLES, count), dtype=np.uint32)
    means = [np.array(values)[drawn % count].mean(1) for values in observed]
    if losses:
        return np.exp(-means[0])
    means = [mean.clip(min=0) for mean in means]
    return np.sqrt(means[0] * means[1]) if len(means) > 1 else means[0]


def violations(card: Scorecard, policy: PolicyConfig) -> dict[str, float]:
    """By how much the worse confidence bound is beyond each limit or floor; <= 0 is feasible.

    A score that cannot be told has no limit: where the training pictures show every background
    there is none to leak.
    """
    scores = card.scores
    over = {n: scores[n].high - limit for n, limit in policy.max.items() if n in scores}
    return over | {n: floor - scores[n].low for n, floor in policy.min.items() if n in scores}


def total_violation(card: Scorecard, policy: PolicyConfig) -> float:
    """By how much it is over its limits, all together; 0 is feasible; infinite where it failed."""
    if card.failure:
        return inf
    return sum(max(0.0, over) for over in violations(card, policy).values())


def constraints(card: Scorecard | None, policy: PolicyConfig) -> dict[str, float]:
    """What a search is told of a trial's checkpoint: finite, the same names for every trial.

    Args:
        card: None where every checkpoint of the trial failed: nothing is kept.
    """
    names = [*policy.max, *policy.min] or [UNSCORED]
    if card is None or card.failure:
        return dict.fromkeys(names, 1.0)
    return dict.fromkeys(names, 0.0) | violations(card, policy)


def objective(card: Scorecard, policy: PolicyConfig) -> float:
    """What the policy's rule wants most of, to compare the checkpoints of different trials too.

    Of a weighted sum, what cannot be told is left out; -inf where nothing can be told.
    """
    wanted = {
        "min_validation_loss": {LOSS: -1.0},
        "max_subject_fidelity": {"subject_fidelity": 1.0},
        "weighted": policy.weights,
    }.get(policy.rule)
    if wanted is None:
        return worth(card)
    told = {name: weight for name, weight in wanted.items() if name in card.scores}
    return sum(w * card.scores[name].value for name, w in told.items()) if told else -inf


def pareto(cards: list[Scorecard]) -> list[Scorecard]:
    """Those that no other beats in worth and pose_memorization at once, least of it first."""
    front: list[Scorecard] = []
    for card in sorted(cards, key=lambda c: (_memory(c), -worth(c), c.epoch)):
        if not front or worth(card) > worth(front[-1]):
            front.append(card)
    return front


def _memory(card: Scorecard) -> float:
    return card.scores[MEMORY].value if MEMORY in card.scores else 0.0
