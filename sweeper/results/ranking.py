"""Ranks the trials of a study, and explains why the first one is the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.diagnosis import has_learned
from evaluate.selection.explain import describe_learning, format_comparison_value
from evaluate.selection.explain_verdict import describe_final
from evaluate.selection.objective import FIDELITIES, LOSS, deciding_scores, pareto
from evaluate.selection.policy import Selection, select
from evaluate.selection.verdict import Verdict
from sweeper.console.progress import format_value, varied_keys
from sweeper.tracking.trial_record import FAILED, TrialRecord


@dataclass(frozen=True)
class RankedTrial:
    """A trial of a study, and the checkpoint selected from it (None if it failed)."""

    record: TrialRecord
    run_id: str
    selection: Selection | None

    @property
    def won(self) -> bool:
        """Whether it has the winner of the study's final."""
        return self.selection is not None and self.selection.verdict is not None

    @property
    def rank(self) -> tuple[bool, float, int]:
        """The sort key; greater is better."""
        if self.selection is None:
            return (False, float("-inf"), -self.record.number)
        return (*self.selection.rank, -self.record.number)


def rank_trials(
    records: list[TrialRecord],
    policy: PolicyConfig,
    run_id: Callable[[TrialRecord], str],
    verdict: Verdict | None = None,
) -> list[RankedTrial]:
    """All the trials, best first.

    Args:
        verdict: of the study's final, whose winner's trial is the first.
    """
    entries = []
    for record in records:
        selected = usable(record.scorecards) and record.state != FAILED
        won = verdict if verdict and verdict.winner.trial == record.number else None
        selection = select(record.scorecards, policy, won) if selected else None
        entries.append(RankedTrial(record, run_id(record), selection))
    return sorted(entries, key=lambda entry: (entry.won, entry.rank), reverse=True)


def pareto_trials(entries: list[RankedTrial]) -> list[RankedTrial]:
    """The Pareto front of fidelity and memorization over trials, least memorized first.

    It consists of trials within the limits; of all trials if none is, as there is no better choice.
    """
    selections = {id(e.selection.scorecard): e for e in entries if e.selection}
    feasible = {key: e for key, e in selections.items() if e.selection and e.selection.feasible}
    candidates = feasible or selections
    front = pareto([e.selection.scorecard for e in candidates.values() if e.selection])
    return [candidates[id(card)] for card in front]


def pareto_numbers(ranked: list[RankedTrial]) -> list[int]:
    """The numbers of the trials on the Pareto front."""
    return [entry.record.number for entry in pareto_trials(ranked)]


def varied_params(entries: list[RankedTrial]) -> list[str]:
    """The names of the settings in which the trials differ."""
    return varied_keys([entry.record.params for entry in entries])


def explain(ranked: list[RankedTrial]) -> list[str]:
    """Explains the best trial in sentences: why this trial, and why this epoch and no later one."""
    best = ranked[0]
    selection = best.selection
    assert selection
    settings = ", ".join(
        f"{short_key(key)} {format_value(best.record.params[key])}"
        for key in varied_params(ranked)
        if key in best.record.params
    )
    trial = f"Trial {best.record.number}{f' ({settings})' if settings else ''}"
    if selection.verdict and selection.feasible:
        return _explain_final(trial, selection.verdict, selection)
    rivals = [entry for entry in ranked[1:] if entry.selection and entry.selection.feasible]
    if not selection.feasible:
        trial_sentence = (
            f"WARNING: no checkpoint of any trial is within all limits; t{trial[1:]} exceeds them "
            "the least, so use it with care"
        )
    elif rivals:
        assert rivals[0].selection
        value, next_value = (_format_objective(s) for s in (selection, rivals[0].selection))
        comparison = f"with {next_value}" if next_value != value else "with almost the same value"
        advantage = _advantage(selection.scorecard)
        trial_sentence = (
            f"{trial} has {advantage} of all trials within the limits: {value}; the next is trial "
            f"{rivals[0].record.number} {comparison}"
            if advantage
            else f"{trial} is the first of those within the limits; no score distinguishes them"
        )
    elif len(ranked) > 1:
        trial_sentence = f"{trial} is the only one with a checkpoint within the limits"
    else:
        trial_sentence = f"{trial} is within all limits"
    learned = describe_learning(selection.scorecard)
    epoch_sentence = f"After epoch {selection.scorecard.epoch} it {learned}"
    if selection.later:
        epoch_sentence += f", while {selection.later}"
    elif best.record.scorecards[-1].epoch > selection.scorecard.epoch:
        epoch_sentence += ", and its later epochs are not significantly better"
    sentences = [f"{trial_sentence}.", f"{epoch_sentence}.", *selection.reasons[2:]]
    if not has_learned(selection.scorecard):
        sentences.append(
            "WARNING: this checkpoint has learned hardly anything of the subject, so it draws "
            "almost what the base model draws."
        )
    return sentences


def _explain_final(trial: str, verdict: Verdict, selection: Selection) -> list[str]:
    """How the winner's trial won the final, in sentences.

    Args:
        trial: its number and settings.
    """
    label = selection.reported.label
    later = f", while {selection.later}" if selection.later else ""
    return [
        f"{describe_final(verdict, f'{trial}, {label},')}.",
        f"{label[:1].upper()}{label[1:]} {describe_learning(selection.reported)}{later}.",
        *selection.reasons[2:],
    ]


def _advantage(card: Scorecard) -> str:
    """The score in which the best trial is ahead; empty if no score decides."""
    names = deciding_scores(card)
    if names == FIDELITIES:
        return "the best balance of likeness and prompt fidelity"
    return (
        "the lowest validation loss" if names == (LOSS,) else "the best likeness" if names else ""
    )


def _format_objective(selection: Selection) -> str:
    """The value that a selection is ranked by, as text."""
    fidelity = selection.fidelity
    return format_comparison_value(selection.scorecard) if fidelity is None else f"{fidelity:.3f}"


def short_key(key: str) -> str:
    """`optimizer.lr` -> `lr`."""
    return key.rsplit(".", 1)[-1]
