"""A study in a page of Markdown: what MLflow's pages show as its description."""

from __future__ import annotations

from sweeper.console.progress import short
from sweeper.results.ranking import RankedTrial, explain, last_word, varied
from sweeper.tracking.markdown import in_markdown, row_in_markdown

ROWS = 12  # trials that are listed


def describe_study(ranked: list[RankedTrial]) -> str:
    """The pick and why; then the trials, best first."""
    best = ranked[0]
    if best.selection is None:
        return "No trial has a checkpoint."
    params = varied(ranked)
    headings = ["trial", *map(last_word, params), "keep", "fidelity", "how it ended"]
    lines = [
        f"**Keep trial {best.record.number}, epoch {best.selection.scorecard.epoch}**: "
        "`best.safetensors` among the artifacts of the sweep's run.",
        "",
        in_markdown(" ".join(explain(ranked))),
        "",
        row_in_markdown(headings),
        row_in_markdown(["---"] * len(headings)),
    ]
    for entry in ranked[:ROWS]:
        record, pick = entry.record, entry.selection
        over = "" if pick is None or pick.feasible else " (over a limit)"
        lines.append(
            row_in_markdown([
                str(record.number),
                *(short(record.params.get(key, "")) for key in params),
                str(pick.scorecard.epoch) if pick else "",
                "" if pick is None or pick.fidelity is None else f"{pick.fidelity:.3f}{over}",
                f"{record.state}{f': {record.reason}' if record.reason else ''}",
            ])
        )  # fmt: skip
    if len(ranked) > ROWS:
        lines += ["", f"... and {len(ranked) - ROWS} more."]
    return "\n".join(lines)
