"""The trials of a study, best first, and why the first one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.explain import learned_by, overall
from evaluate.selection.objective import FIDELITIES, LOSS, deciding, pareto
from evaluate.selection.policy import Selection, select
from sweeper.console.progress import format_value
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


def pareto_trials(entries: list[RankedTrial]) -> list[RankedTrial]:
    """The trials that no other beats in both fidelity and memorization, least memorized first."""
    by_card = {id(e.selection.scorecard): e for e in entries if e.selection}
    return [
        by_card[id(card)]
        for card in pareto([e.selection.scorecard for e in by_card.values() if e.selection])
    ]


def pareto_numbers(ranked: list[RankedTrial]) -> list[int]:
    """The numbers of the trials of the front."""
    return [entry.record.number for entry in pareto_trials(ranked)]


def varied_params(entries: list[RankedTrial]) -> list[str]:
    """The settings in which the trials differ."""
    keys = dict.fromkeys(key for entry in entries for key in entry.record.params)
    return [key for key in keys if len({str(e.record.params.get(key)) for e in entries}) > 1]


def explain(ranked: list[RankedTrial]) -> list[str]:
    """The first in plain sentences: why this trial; why this epoch and not a later one."""
    best = ranked[0]
    selection = best.selection
    assert selection
    settings = ", ".join(
        f"{short_key(key)} {format_value(best.record.params[key])}"
        for key in varied_params(ranked)
        if key in best.record.params
    )
    trial = f"Trial {best.record.number}{f' ({settings})' if settings else ''}"
    rivals = [entry for entry in ranked[1:] if entry.selection and entry.selection.feasible]
    if not selection.feasible:
        trial_sentence = (
            f"WARNING: no checkpoint of any trial keeps all the limits; t{trial[1:]} is over them "
            "by the least, so use it with care"
        )
    elif rivals:
        assert rivals[0].selection
        value, next_value = (_format_objective(s) for s in (selection, rivals[0].selection))
        comparison = f"with {next_value}" if next_value != value else "with hardly less"
        advantage = _advantage(selection.scorecard)
        trial_sentence = (
            f"{trial} has {advantage} of all trials within the limits: {value}, the next is trial "
            f"{rivals[0].record.number} {comparison}"
            if advantage
            else f"{trial} is the first of those within the limits, which nothing tells apart"
        )
    elif len(ranked) > 1:
        trial_sentence = f"{trial} is the only one with a checkpoint within the limits"
    else:
        trial_sentence = f"{trial} keeps all the limits"
    epoch_sentence = f"After epoch {selection.scorecard.epoch} it {learned_by(selection.scorecard)}"
    if selection.later:
        epoch_sentence += f", while {selection.later}"
    elif best.record.scorecards[-1].epoch > selection.scorecard.epoch:
        epoch_sentence += ", and its later epochs are not better by more than chance"
    return [f"{trial_sentence}.", f"{epoch_sentence}.", *selection.reasons[2:]]


def _advantage(card: Scorecard) -> str:
    """What the first of the trials has the best of; empty: nothing that can be told."""
    names = deciding(card)
    if names == FIDELITIES:
        return "the best balance of likeness and obedience"
    return (
        "the lowest validation loss" if names == (LOSS,) else "the best likeness" if names else ""
    )


def _format_objective(selection: Selection) -> str:
    """What a selection is compared by, in letters."""
    fidelity = selection.fidelity
    return overall(selection.scorecard) if fidelity is None else f"{fidelity:.3f}"


def short_key(key: str) -> str:
    """`optimizer.lr` -> `lr`."""
    return key.rsplit(".", 1)[-1]
