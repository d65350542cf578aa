"""Converts Matplotlib figures to SVG for the report: in its font, for light and dark mode."""

from __future__ import annotations

import io
import re
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

from evaluate.config import PolicyConfig
from evaluate.images.curves import CURVES, draw_curves
from evaluate.images.figures import save_figure
from evaluate.scorecard import Scorecard
from sweeper.results.overview_chart import draw_checkpoints
from sweeper.results.ranking import RankedTrial
from sweeper.tracking.trial_record import TrialRecord
from train.text.display import printable

CURVES_SIZE, CHECKPOINTS_SIZE = (4.6, 3.2), (5.6, 4.0)  # inches; legible on a phone
STYLE: Any = {"svg.fonttype": "none", "font.size": 10.5, "axes.spines.top": False,
         "axes.spines.right": False}  # fmt: skip


def checkpoints_chart(
    records: list[TrialRecord], best: TrialRecord, selected: Scorecard, policy: PolicyConfig
) -> Markup:
    """Fidelity against memorization; hovering over a dot shows which checkpoint it is."""
    with rc_context(STYLE):
        figure = Figure(figsize=CHECKPOINTS_SIZE, layout="constrained")
        axes = figure.subplots()
        draw_checkpoints(axes, records, best, selected, policy, legend=False)
        axes.set_xlabel("pose memorization (0 none, 1 all)")
        axes.set_ylabel("fidelity (higher is better)")
        count = sum(len(record.scorecards) for record in records)
        label = (
            f"Fidelity against pose memorization of all {count} checkpoints; trial {best.number}, "
            f"{selected.label} is selected. The numbers are in the table of the trials."
        )
        return svg(figure, label)


def curves_chart(entry: RankedTrial, policy: PolicyConfig) -> Markup:
    """The scores of a trial over its epochs, with the selected epoch marked."""
    assert entry.selection
    selected, record = entry.selection.scorecard, entry.record
    with rc_context(STYLE):
        figure = Figure(figsize=CURVES_SIZE, layout="constrained")
        axes = figure.subplots()
        draw_curves(axes, record.scorecards, selected, policy, "", legend=False)
        axes.set_ylim(top=max(1.12, axes.get_ylim()[1]))
        ranges = ", ".join(
            f"{name.replace('_', ' ')} {first.value:.2f} to {selected.scores[name].value:.2f} to "
            f"{last.value:.2f}"
            for name in CURVES
            if name in selected.scores
            and (first := record.scorecards[0].scores.get(name))
            and (last := record.scorecards[-1].scores.get(name))
        )
        label = (
            f"The scores of trial {record.number} at its first, its selected ({selected.label}) "
            f"and its last epoch: {ranges}."
        )
        return svg(figure, label)


def svg(figure: Figure, label: str) -> Markup:
    """A figure as an <svg> element that can be embedded in a page.

    Black becomes the page's text color, and white its background. Every other color `#abcdef` can
    be overridden by the CSS variable `--abcdef`. An artist's URL becomes its tooltip.

    Args:
        label: a description of the figure for screen readers.
    """
    buffer, label = io.StringIO(), printable(label)
    with rc_context({**STYLE, "svg.hashsalt": label}):  # makes the element IDs reproducible
        save_figure(figure, buffer, format="svg", transparent=True, bbox_inches="tight")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for pattern, replacement in (
        (r"<metadata>.*?</metadata>", ""),
        (r"<style.*?</style>", ""),
        (r"<!--.*?-->", ""),
        (r'<g id="[^"]*"', "<g"),
        (r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px"),
        (r"(fill|stroke): ?#000000", r"\1: currentColor"),
        (r"(fill|stroke): ?#ffffff", r"\1: var(--paper)"),
        (r"(fill|stroke): ?#([0-9a-f]{6})", r"\1: var(--\2, #\2)"),
        (r'<a xlink:href="([^"]*)"[^>]*>', r"<g><title>\1</title>"),
        (r"</a>", "</g>"),
        (r">\s+<", "><"),
    ):
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box
    opening_tag = f'<svg {view_box.group()} role="img" aria-label="{escape(label)}">'
    return Markup(opening_tag + text[text.index(">") + 1 :])
