"""How prompt_fidelity and subject_fidelity make up the fidelity: pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluate.selection.sequential import Values

PROMPT_WEIGHT = 0.5  # of prompt_fidelity in the mean; the rest is that of subject_fidelity


def weighted_mean(prompt: Values, subject: Values) -> Values:
    """The weighted geometric mean, prompt^w * subject^(1 - w) with w = PROMPT_WEIGHT.

    Args:
        prompt, subject: the two fidelities, at least 0, of the same shape.
    """
    mean: Values = prompt**PROMPT_WEIGHT * subject ** (1 - PROMPT_WEIGHT)
    return mean


def contributions(prompt: Sequence[float], subject: Sequence[float]) -> Values:
    """Each probe's contribution to the weighted mean of the mean fidelities; their mean is this.

    They are its influence function (delta method), so their spread gives its standard error.

    Args:
        prompt, subject: of each probe the two fidelities, (N,).
    """
    first, second = np.asarray(prompt, float), np.asarray(subject, float)
    a, b = first.mean().clip(min=0), second.mean().clip(min=0)
    if not a * b:
        return np.zeros(len(first))
    change = PROMPT_WEIGHT * (first / a - 1) + (1 - PROMPT_WEIGHT) * (second / b - 1)
    contributed: Values = weighted_mean(a, b) * (1 + change)
    return contributed
