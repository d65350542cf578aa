"""Prints the result of a study: the table of its trials, the selected checkpoint and why."""

from __future__ import annotations

from pathlib import Path

from evaluate.config import PolicyConfig
from evaluate.console.tables import PlainTable, table_console
from evaluate.selection.diagnosis import diagnose
from sweeper.console.progress import format_value
from sweeper.results.checkpoint_files import REPORT_FILE, SELECTED_FILE, find_weights
from sweeper.results.ranking import RankedTrial, explain, pareto_numbers, short_key, varied_params
from sweeper.results.snippets import reproduce_commands, root_argument
from sweeper.tracking.trial_record import TrialRecord
from train.text.terminal import print_lines

WIDTH = 160  # columns of the table if the output is not a terminal
# the rules of early stopping, whose reasons are in the lines above the table and in the report
RULES = {"memorized", "overfitted", "plateaued", "no learning", "pruned"}


def print_table(ranked: list[RankedTrial]) -> None:
    """Prints all trials in a table, the best one marked, with the reasons of failures."""
    entries = sorted(ranked, key=lambda entry: entry.record.number)
    best = ranked[0] if ranked[0].selection else None
    params = varied_params(entries)
    table = PlainTable("trials")
    table.heading("")
    for heading in ("trial", *map(short_key, params), "checkpoints", "keep epoch", "fidelity"):
        table.heading(heading, right=True)
    for heading in ("prompt", "subject", "memorized"):
        table.heading(heading, right=True)
    table.heading("how it ended")
    for entry in entries:
        record, selection = entry.record, entry.selection
        cells = [""] * 5
        if selection:
            card = selection.reported
            names = ("prompt_fidelity", "subject_fidelity", "pose_memorization")
            values = [f"{card.scores[n].value:.2f}" if n in card.scores else "" for n in names]
            suffix = "" if selection.feasible else " (over a limit)"
            fidelity = "-" if selection.fidelity is None else f"{selection.fidelity:.2f}"
            cells = [str(card.epoch), f"{fidelity}{suffix}", *values]
        table.row(
            "*" if entry is best else "",
            str(record.number),
            *(format_value(record.params.get(key, "")) for key in params),
            str(len(record.epochs)),
            *cells,
            _ending(record),
        )
    table_console(WIDTH).print(table)


def _ending(record: TrialRecord) -> str:
    """How a trial ended: with its reason, but of the rules that stopped it only the names."""
    parts = [part.partition(":")[0] for part in record.reason.split("; ")]
    reason = ", ".join(parts) if set(parts) <= RULES else record.reason
    return f"{record.state}{f': {reason}' if reason else ''}"


def print_selection(study: Path, ranked: list[RankedTrial], policy: PolicyConfig) -> None:
    """Prints the selected checkpoint, why it was selected, its trial's diagnosis and next steps."""
    best = ranked[0]
    if best.selection is None or find_weights(study, best) is None:
        print_lines(f"no trial has a checkpoint; see the table above and {study / REPORT_FILE}")
        return
    print_lines(*explain(ranked))
    for finding in diagnose(best.record.scorecards, policy):
        print_lines(f"diagnosis of the trial: {finding}")
    front = pareto_numbers(ranked)
    noun = "trial" if len(front) == 1 else "trials"
    commands = reproduce_commands(best.run_id, study / SELECTED_FILE, root_argument(study))
    print_lines(
        f"Pareto front of fidelity and memorization: {noun} {', '.join(map(str, front))}",
        f"the LoRA to keep: {study / SELECTED_FILE}",
        f"the report, to open in a browser: {study / REPORT_FILE}",
        f"retrain it: {commands[0]}",
    )
