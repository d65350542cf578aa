"""The overview chart of a study: all its checkpoints, and the curves of the selected trial."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluate.config import PolicyConfig
from evaluate.images.curves import SELECTED_COLOR, draw_curves
from evaluate.images.figures import save_png
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.explain import format_comparison_value
from evaluate.selection.objective import MEMORY, comparison_value, pareto, total_violation
from sweeper.console.progress import format_value
from sweeper.tracking.trial_record import TrialRecord

WITHIN_COLOR, OVER_COLOR, FAINT_COLOR = "#1864ab", "#adb5bd", "#868e96"


def draw_overview(
    file: Path,
    records: list[TrialRecord],
    best: TrialRecord,
    selected: Scorecard,
    policy: PolicyConfig,
) -> None:
    """Draws the overview into a PNG file, which is written atomically."""
    figure = Figure(figsize=(14, 5.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    draw_checkpoints(left, records, best, selected, policy)
    settings = ", ".join(f"{k.split('.')[-1]} {format_value(v)}" for k, v in best.params.items())
    title = f"trial {best.number}" + (f": {settings}" if settings else "")
    draw_curves(right, best.scorecards, selected, policy, title)
    save_png(figure, file)


def draw_checkpoints(
    axes: Axes,
    records: list[TrialRecord],
    best: TrialRecord,
    selected: Scorecard,
    policy: PolicyConfig,
    legend: bool = True,
) -> None:
    """Draws fidelity against pose memorization: a dot per checkpoint, a thin line per trial.

    Args:
        legend: whether to draw a title and a legend. Each dot has its description as its URL.
    """
    for record in records:
        _draw_line(axes, record, record is best or record.number == best.number)
    feasible = _draw_dots(axes, records, policy)
    _draw_front(axes, feasible)
    x0, y0 = _point(selected)
    axes.scatter(
        [x0],
        [y0],
        marker="*",
        s=420 if legend else 240,
        c=SELECTED_COLOR,
        edgecolors="black",
        linewidths=0.8,
        zorder=5,
        label=f"selected: trial {best.number}, {selected.label}",
    )
    if MEMORY in policy.max:
        axes.axvline(policy.max[MEMORY], color="#c92a2a", linestyle="--", linewidth=1)
        axes.axvspan(policy.max[MEMORY], 2, color="#c92a2a", alpha=0.05)
    memories = [_point(card)[0] for record in records for card in usable(record.scorecards)]
    axes.set_xlim(-0.03, max(max(memories, default=1.0), policy.max.get(MEMORY, 0)) + 0.06)
    axes.set_xlabel("pose memorization  (0: none, 1: every image comes close to one)")
    axes.set_ylabel("fidelity  (likeness and prompt fidelity; higher is better)")
    if legend:
        axes.set_title("all checkpoints of all trials", loc="left")
        axes.legend(loc="best", fontsize=9)
    axes.grid(alpha=0.2)


def _draw_line(axes: Axes, record: TrialRecord, is_best: bool) -> None:
    """Connects a trial's epochs with a line."""
    points = [_point(card) for card in usable(record.scorecards)]
    axes.plot(
        *zip(*points, strict=True) if points else ([], []),
        color=SELECTED_COLOR if is_best else FAINT_COLOR,
        linewidth=1.6 if is_best else 0.6,
        alpha=0.9 if is_best else 0.6,
        zorder=2 if is_best else 1,
    )


def _draw_dots(axes: Axes, records: list[TrialRecord], policy: PolicyConfig) -> list[Scorecard]:
    """Draws a dot per checkpoint, with its description as URL; returns those within all limits."""
    groups: dict[bool, list[tuple[Scorecard, str]]] = {False: [], True: []}
    for record in records:
        for card in usable(record.scorecards):
            caption = (
                f"trial {record.number}, {card.label}: fidelity {format_comparison_value(card)}, "
                f"pose memorization {_point(card)[0]:.2f}"
            )
            groups[total_violation(card, policy) <= 0].append((card, caption))
    for group, color, marker, label in (
        (groups[False], OVER_COLOR, "X", "over a limit (upper bound)"),
        (groups[True], WITHIN_COLOR, "o", "within all limits"),
    ):
        if group:
            x, y = zip(*(_point(card) for card, _ in group), strict=True)
            dots = axes.scatter(
                x,
                y,
                c=color,
                marker=marker,
                s=42,
                edgecolors="white",
                linewidths=0.6,
                label=label,
                zorder=3,
            )
            dots.set_urls([caption for _, caption in group])
    return [card for card, _ in groups[True]]


def _draw_front(axes: Axes, feasible: list[Scorecard]) -> None:
    """Draws the Pareto front: the checkpoints that no other one beats in both objectives."""
    front = [_point(card) for card in pareto(feasible)]
    if len(front) > 1:
        axes.step(
            *zip(*front, strict=True),
            where="post",
            color=WITHIN_COLOR,
            linestyle=":",
            linewidth=1.4,
            label="Pareto front",
            zorder=2,
        )


def _point(card: Scorecard) -> tuple[float, float]:
    memory = card.scores.get(MEMORY)
    return (memory.value if memory else 0.0, comparison_value(card))
