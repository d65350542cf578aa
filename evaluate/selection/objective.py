"""The objective of a checkpoint, and the difference of two: pure functions of scorecards."""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf
from typing import NamedTuple

import numpy as np

from evaluate.config import PolicyConfig
from evaluate.scorecard import FIDELITIES, Scorecard
from evaluate.selection.sequential import Values
from evaluate.selection.weighted_mean import weighted_mean

RESAMPLES = 500
MIN_LIKENESS = 0.15  # likeness below which nothing was learned
MIN_PROMPTS = 0.5  # prompt fidelity below which images without likeness are noise
MEMORY, LOSS = "pose_memorization", "validation_loss"
UNSCORED = "unscored"  # the constraint of a search whose policy has neither max nor min


class PairedDifference(NamedTuple):
    """Difference of the worth of two checkpoints, with its standard error."""

    value: float
    error: float


def deciding_scores(card: Scorecard) -> tuple[str, ...]:
    """The scores that decide how good a checkpoint is.

    Both fidelities; subject_fidelity alone if prompt_fidelity is undefined. prompt_fidelity alone
    does not decide, as it is best if nothing is learned. So without subject_fidelity it is the
    validation loss; without held-out images the tuple is empty.
    """
    if FIDELITIES[1] in card.scores:
        return tuple(name for name in FIDELITIES if name in card.scores)
    return (LOSS,) if LOSS in card.scores else ()


def fidelity(card: Scorecard) -> float | None:
    """The weighted geometric mean of prompt_fidelity and subject_fidelity; see `weighted_mean`.

    subject_fidelity alone if prompt_fidelity is undefined; None if subject_fidelity is.
    """
    if FIDELITIES[1] not in card.scores:
        return None
    values = [max(card.scores[name].value, 0.0) for name in deciding_scores(card)]
    return float(weighted_mean(*map(np.asarray, values))) if len(values) > 1 else values[0]


def comparison_value(card: Scorecard) -> float:
    """The value by which checkpoints are compared, at least 0; greater is better: see `deciding`.

    The fidelity; else exp(-validation loss); else 0 for all.
    """
    value = fidelity(card)
    if value is not None:
        return value
    return exp(-card.scores[LOSS].value) if LOSS in card.scores else 0.0


def paired_difference(card: Scorecard, other: Scorecard) -> PairedDifference:
    """Worth of `card` minus worth of `other`.

    Both have the same probes, so the error is that of the paired difference: the standard
    deviation over bootstrap resamples of the probes, the same for both. It is a fraction of what
    the two intervals suggest, as probes differ more than checkpoints do.
    """
    error = float((_resampled(card) - _resampled(other)).std(ddof=1))
    return PairedDifference(comparison_value(card) - comparison_value(other), error)


def _resampled(card: Scorecard) -> Values:
    """(RESAMPLES,) worths; every card has the same resamples."""
    names = deciding_scores(card)
    observed = [tuple(card.by_probe.get(name, ())) for name in names]
    if not all(observed) or not names:
        return np.zeros(RESAMPLES)
    return _comparison_values(names == (LOSS,), *observed)


@lru_cache(maxsize=1000)
def _comparison_values(losses: bool, *observed: tuple[float, ...]) -> Values:
    """Cached, as all checkpoints of a trial are compared with each other after every epoch."""
    count = len(observed[0])
    # equal to torch.randint with the seed 0
    integers = np.random.RandomState(0).randint(0, 2**32, (RESAMPLES, count), dtype=np.uint32)
    means = [np.array(values)[integers % count].mean(1) for values in observed]
    if losses:
        return np.exp(-means[0])
    means = [mean.clip(min=0) for mean in means]
    return weighted_mean(means[0], means[1]) if len(means) > 1 else means[0]


def is_noise(card: Scorecard) -> bool:
    """Whether the images significantly show neither the subject nor what prompts ask for."""
    return all(
        name in card.scores and card.scores[name].high < least
        for name, least in zip(FIDELITIES, (MIN_PROMPTS, MIN_LIKENESS), strict=True)
    )


def violations(card: Scorecard, policy: PolicyConfig) -> dict[str, float]:
    """How far the worse confidence bound is beyond each max or min; <= 0 is feasible.

    Limits of undefined scores do not apply: if the training images show every background, there is
    none to leak.
    """
    scores = card.scores
    over = {n: scores[n].high - limit for n, limit in policy.max.items() if n in scores}
    return over | {n: floor - scores[n].low for n, floor in policy.min.items() if n in scores}


def total_violation(card: Scorecard, policy: PolicyConfig) -> float:
    """Sum of the violations; 0 is feasible; infinite if the checkpoint failed or draws noise."""
    if card.failure or is_noise(card):
        return inf
    return sum(max(0.0, over) for over in violations(card, policy).values())


def constraints(card: Scorecard | None, policy: PolicyConfig) -> dict[str, float]:
    """A search's constraints from a trial's checkpoint: finite, the same names for every trial.

    Args:
        card: None if every checkpoint of the trial failed.
    """
    names = [*policy.max, *policy.min] or [UNSCORED]
    if card is None or card.failure:
        return dict.fromkeys(names, 1.0)
    return dict.fromkeys(names, 0.0) | violations(card, policy)


def objective(card: Scorecard, policy: PolicyConfig) -> float:
    """The value that the policy's rule maximizes, comparable across trials.

    A weighted sum leaves out undefined scores; -inf if all are undefined.
    """
    weights = {
        "min_validation_loss": {LOSS: -1.0},
        "max_subject_fidelity": {"subject_fidelity": 1.0},
        "weighted": policy.weights,
    }.get(policy.rule)
    if weights is None:
        return comparison_value(card)
    defined = {name: weight for name, weight in weights.items() if name in card.scores}
    return sum(w * card.scores[name].value for name, w in defined.items()) if defined else -inf


def pareto(cards: list[Scorecard]) -> list[Scorecard]:
    """The Pareto front of worth and pose_memorization, least memorization first.

    Checkpoints without any worth are left out, unless all are.
    """
    front: list[Scorecard] = []
    cards = [card for card in cards if comparison_value(card) > 0] or cards
    for card in sorted(cards, key=lambda c: (_memorization(c), -comparison_value(c), c.epoch)):
        if not front or comparison_value(card) > comparison_value(front[-1]):
            front.append(card)
    return front


def _memorization(card: Scorecard) -> float:
    return card.scores[MEMORY].value if MEMORY in card.scores else 0.0
