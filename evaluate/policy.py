"""How one checkpoint is selected from many: pure functions of scorecards."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard

# what a checkpoint over the limit does, for sentences like "58 % of the images ..."
FAULTS = {
    "pose_memorization": "repeat a training pose",
    "background_leak": "show a training background that was not asked for",
    "outfit_leak": "show the training outfit where another was asked for",
}


class Fidelity(NamedTuple):
    """Geometric mean of prompt_fidelity and subject_fidelity, with its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Selection:
    """The checkpoint to keep, and why.

    Attributes:
        feasible: it keeps all the limits.
        fidelity: see `fidelity`.
        violations: see `violations`.
        reasons: two plain sentences.
        later: what the epochs after it did wrong; empty where nothing or where there are none.
    """

    scorecard: Scorecard
    feasible: bool
    fidelity: float
    violations: dict[str, float]
    reasons: list[str]
    later: str


def fidelity(scorecard: Scorecard) -> Fidelity:
    """How well a checkpoint does both of its jobs: sqrt(prompt_fidelity * subject_fidelity).

    The standard error follows from the two intervals, taken as independent: half the change of
    the geometric mean along each interval, over the normal quantile of the confidence. (Finite
    differences, as the derivative has no bound where a fidelity is 0.)
    """
    prompt, subject = scorecard.scores["prompt_fidelity"], scorecard.scores["subject_fidelity"]
    quantile = NormalDist().inv_cdf((1 + scorecard.confidence) / 2)
    by_prompt = _mean(prompt.high, subject.value) - _mean(prompt.low, subject.value)
    by_subject = _mean(prompt.value, subject.high) - _mean(prompt.value, subject.low)
    error = sqrt(by_prompt**2 + by_subject**2) / (2 * quantile)
    return Fidelity(_mean(prompt.value, subject.value), error)


def _mean(prompt: float, subject: float) -> float:
    return sqrt(max(prompt, 0.0) * max(subject, 0.0))


def violations(scorecard: Scorecard, policy: PolicyConfig) -> dict[str, float]:
    """For every limit the upper confidence bound minus the limit; all <= 0 is feasible.

    Raises:
        ValueError: a limit on a score that the scorecard does not have.
    """
    for name in policy.limits:
        if name not in scorecard.scores:
            known = ", ".join(scorecard.scores)
            raise ValueError(f"policy.limits.{name}: there is no such score; there are {known}")
    return {name: scorecard.scores[name].high - limit for name, limit in policy.limits.items()}


def select(scorecards: list[Scorecard], policy: PolicyConfig) -> Selection:
    """The checkpoint to keep.

    Among those within the limits the highest fidelity; those within `standard_errors` of it count
    as equal, and the earliest epoch of these wins. Where none is within the limits: the one whose
    violations add up to the least.

    Raises:
        ValueError: no scorecards, or a limit on an unknown score.
    """
    if not scorecards:
        raise ValueError("there is no scorecard to select from")
    over = [violations(card, policy) for card in scorecards]
    feasible = [card for card, v in zip(scorecards, over, strict=True) if _total(v) <= 0]
    if feasible:
        best = max(feasible, key=lambda card: fidelity(card).value)
        value, error = fidelity(best)
        equal = [c for c in feasible if fidelity(c).value >= value - policy.standard_errors * error]
        earliest = min(card.epoch for card in equal)
        pick = max((c for c in equal if c.epoch == earliest), key=lambda c: fidelity(c).value)
    else:
        pick = min(scorecards, key=lambda card: (_total(violations(card, policy)), card.epoch))
        best = pick
    later = _later(scorecards, pick, policy)
    return Selection(
        scorecard=pick,
        feasible=bool(feasible),
        fidelity=fidelity(pick).value,
        violations=violations(pick, policy),
        reasons=_reasons(pick, best, later, policy, bool(feasible)),
        later=later,
    )


def _total(over: dict[str, float]) -> float:
    return sum(max(0.0, value) for value in over.values())


def _reasons(
    pick: Scorecard, best: Scorecard, later: str, policy: PolicyConfig, feasible: bool
) -> list[str]:
    """Two sentences: what it does well, and what it does not do wrong (or does least)."""
    scores = pick.scores
    good = (
        f"Epoch {pick.epoch} has learned {_percent(scores['subject_fidelity'].value)} of the "
        f"subject's likeness and follows prompts {_percent(scores['prompt_fidelity'].value)} as "
        "well as the base model"
    )
    if not feasible:
        return [
            f"WARNING: every checkpoint is over a limit; epoch {pick.epoch} is over by the least, "
            f"so use it with care: {_faults(pick, _exceeded(pick, policy), policy)}.",
            f"{good}; train for fewer epochs, at a lower learning rate, or on more pictures.",
        ]
    if best.epoch != pick.epoch:
        good += (
            f", which no later epoch beats by more than chance (epoch {best.epoch} reaches "
            f"{fidelity(best).value:.2f} overall against {fidelity(pick).value:.2f})"
        )
    else:
        good += f", the best overall of the epochs within the limits ({fidelity(pick).value:.2f})"
    kept = f"Of its images only {_faults(pick, list(policy.limits), policy)}"
    if not policy.limits:
        kept = "No limits were set"
    return [f"{good}.", f"{kept}{', while ' + later if later else ''}."]


def _later(scorecards: list[Scorecard], pick: Scorecard, policy: PolicyConfig) -> str:
    """What the epochs after the pick did wrong: the worst limit broken, or a loss of fidelity."""
    after = sorted((c for c in scorecards if c.epoch > pick.epoch), key=lambda c: c.epoch)
    wrong = [card for card in after if _worse(card, pick, policy)]
    if wrong:
        first, worst = wrong[0], max(wrong, key=lambda c: _total(violations(c, policy)))
        name = max(_worse(worst, pick, policy), key=lambda n: violations(worst, policy)[n])
        share = _percent(worst.scores[name].value)
        if worst is first:
            steady = len(wrong) == len(after) and len(wrong) > 1
            return f"{'from' if steady else 'at'} epoch {first.epoch}{' on' if steady else ''} " + (
                f"up to {share} of the images {_fault(name)}"
            )
        return (
            f"from epoch {first.epoch} on too many images {_fault(name)}, "
            f"{share} of them at epoch {worst.epoch}"
        )
    if after:
        now, last = fidelity(pick), fidelity(after[-1])
        if last.value < now.value - now.error:
            return f"epoch {after[-1].epoch} falls back to {last.value:.2f} overall"
    return ""


def _exceeded(card: Scorecard, policy: PolicyConfig) -> list[str]:
    return [name for name, over in violations(card, policy).items() if over > 0]


def _worse(card: Scorecard, pick: Scorecard, policy: PolicyConfig) -> list[str]:
    """Where it is over a limit, and not for the width of the interval alone."""
    over = _exceeded(card, policy)
    return [name for name in over if card.scores[name].value > pick.scores[name].value]


def _faults(card: Scorecard, names: list[str], policy: PolicyConfig) -> str:
    """ "4 % repeat a training pose (at most 35 % allowed) and ...", limits compared to bounds."""
    parts = [
        f"{_percent(card.scores[n].value)} (surely below {_percent(card.scores[n].high)}) "
        f"{_fault(n)}"
        if violations(card, policy)[n] <= 0
        else f"{_percent(card.scores[n].value)} (perhaps {_percent(card.scores[n].high)}, where "
        f"{_percent(policy.limits[n])} is the limit) {_fault(n)}"
        for n in names
    ]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _fault(name: str) -> str:
    return FAULTS.get(name, f"are over the limit of {name}")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
