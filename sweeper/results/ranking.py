"""The trials of a study, best first, and why the first one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.explain import describe_learning, format_comparison_value
from evaluate.selection.objective import FIDELITIES, LOSS, deciding_scores, pareto
from evaluate.selection.policy import Selection, select
from sweeper.console.progress import short
from sweeper.tracking.trial_record import FAILED, TrialRecord


@dataclass(frozen=True)
class RankedTrial:
    """A trial of a study, and the checkpoint selected from it (None: it failed)."""

    record: TrialRecord
    run_id: str
    selection: Selection | None

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Greater is better."""
        if self.selection is None:
            return (False, float("-inf"), -self.record.number)
        return (*self.selection.rank, -self.record.number)


def rank_trials(
    records: list[TrialRecord], policy: PolicyConfig, run_id: Callable[[TrialRecord], str]
) -> list[RankedTrial]:
    """All the trials, best first."""
    entries = []
    for record in records:
        selected = usable(record.scorecards) and record.state != FAILED
        selection = select(record.scorecards, policy) if selected else None
        entries.append(RankedTrial(record, run_id(record), selection))
    return sorted(entries, key=lambda entry: entry.rank, reverse=True)


def front_of(entries: list[RankedTrial]) -> list[RankedTrial]:
    """The trials that no other beats in both fidelity and memorization, least memorized first."""
    kept = {id(e.selection.scorecard): e for e in entries if e.selection}
    return [
        kept[id(card)]
        for card in pareto([e.selection.scorecard for e in kept.values() if e.selection])
    ]


def numbers_of_front(ranked: list[RankedTrial]) -> list[int]:
    """The numbers of the trials of the front."""
    return [entry.record.number for entry in front_of(ranked)]


def varied(entries: list[RankedTrial]) -> list[str]:
    """The settings in which the trials differ."""
    keys = dict.fromkeys(key for entry in entries for key in entry.record.params)
    return [key for key in keys if len({str(e.record.params.get(key)) for e in entries}) > 1]


def explain(ranked: list[RankedTrial]) -> list[str]:
    """The first in plain sentences: why this trial; why this epoch and not a later one."""
    best = ranked[0]
    pick = best.selection
    assert pick
    settings = ", ".join(
        f"{last_word(key)} {short(best.record.params[key])}"
        for key in varied(ranked)
        if key in best.record.params
    )
    trial = f"Trial {best.record.number}{f' ({settings})' if settings else ''}"
    rivals = [entry for entry in ranked[1:] if entry.selection and entry.selection.feasible]
    if not pick.feasible:
        first = (
            f"WARNING: no checkpoint of any trial keeps all the limits; t{trial[1:]} is over them "
            "by the least, so use it with care"
        )
    elif rivals:
        assert rivals[0].selection
        own, next_one = (_figure(s) for s in (pick, rivals[0].selection))
        with_it = f"with {next_one}" if next_one != own else "with hardly less"
        what = _compared(pick.scorecard)
        first = (
            f"{trial} has {what} of all trials within the limits: {own}, the next is trial "
            f"{rivals[0].record.number} {with_it}"
            if what
            else f"{trial} is the first of those within the limits, which nothing tells apart"
        )
    elif len(ranked) > 1:
        first = f"{trial} is the only one with a checkpoint within the limits"
    else:
        first = f"{trial} keeps all the limits"
    second = f"After epoch {pick.scorecard.epoch} it {describe_learning(pick.scorecard)}"
    if pick.later:
        second += f", while {pick.later}"
    elif best.record.scorecards[-1].epoch > pick.scorecard.epoch:
        second += ", and its later epochs are not better by more than chance"
    return [f"{first}.", f"{second}.", *pick.reasons[2:]]


def _compared(card: Scorecard) -> str:
    """What the first of the trials has the best of; empty: nothing that can be told."""
    names = deciding_scores(card)
    if names == FIDELITIES:
        return "the best balance of likeness and obedience"
    return (
        "the lowest validation loss" if names == (LOSS,) else "the best likeness" if names else ""
    )


def _figure(selection: Selection) -> str:
    """What a selection is compared by, in letters."""
    told = selection.fidelity
    return format_comparison_value(selection.scorecard) if told is None else f"{told:.3f}"


def last_word(key: str) -> str:
    """`optimizer.lr` -> `lr`."""
    return key.rsplit(".", 1)[-1]
