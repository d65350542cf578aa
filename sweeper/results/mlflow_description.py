"""A study's description in MLflow: a page of Markdown."""

from __future__ import annotations

from sweeper.console.progress import format_value
from sweeper.results.ranking import RankedTrial, explain, short_key, varied_params
from sweeper.tracking.markdown import escape_markdown, markdown_row

MAX_ROWS = 12  # trials in the table


def describe_study(ranked: list[RankedTrial]) -> str:
    """The selected checkpoint and the reasons; then a table of the trials, best first."""
    best = ranked[0]
    if best.selection is None:
        return "No trial has a checkpoint."
    params = varied_params(ranked)
    headings = ["trial", *map(short_key, params), "keep", "fidelity", "how it ended"]
    lines = [
        f"**Keep trial {best.record.number}, {escape_markdown(best.selection.scorecard.label)}**: "
        "`best.safetensors` in the artifacts of the sweep's run.",
        "",
        escape_markdown(" ".join(explain(ranked))),
        "",
        markdown_row(headings),
        markdown_row(["---"] * len(headings)),
    ]
    for entry in ranked[:MAX_ROWS]:
        record, selection = entry.record, entry.selection
        suffix = "" if selection is None or selection.feasible else " (over a limit)"
        fidelity = selection.fidelity if selection else None
        lines.append(
            markdown_row([
                str(record.number),
                *(format_value(record.params.get(key, "")) for key in params),
                str(selection.scorecard.epoch) if selection else "",
                "" if fidelity is None else f"{fidelity:.3f}{suffix}",
                f"{record.state}{f': {record.reason}' if record.reason else ''}",
            ])
        )  # fmt: skip
    if len(ranked) > MAX_ROWS:
        lines += ["", f"... and {len(ranked) - MAX_ROWS} more."]
    return "\n".join(lines)
