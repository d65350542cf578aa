"""The scores of one run over its epochs, plotted."""

from __future__ import annotations

from matplotlib.axes import Axes

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard

SELECTED_COLOR = "#d9480f"
MAX_TICKS = 12
# distinct in lightness too, for readers with color vision deficiency
CURVES = {
    "prompt_fidelity": "#1864ab",
    "subject_fidelity": "#2b8a3e",
    "pose_memorization": "#c92a2a",
    "background_leak": "#e67700",
    "outfit_leak": "#862e9c",
    "copying": "#495057",
}


def draw_curves(
    axes: Axes,
    cards: list[Scorecard],
    selected: Scorecard,
    policy: PolicyConfig,
    title: str,
    legend: bool = True,
) -> None:
    """Plots each score with its interval, the limits, and the selected checkpoint.

    Args:
        legend: add a legend and name the limits; False if the surrounding page does.
    """
    epochs = [card.epoch for card in cards]
    for name, color in CURVES.items():
        scored = [card for card in cards if name in card.scores]
        if not scored:
            continue
        estimates = [card.scores[name] for card in scored]
        scored_epochs = [card.epoch for card in scored]
        style, label = "-" if name.endswith("fidelity") else "--", name.replace("_", " ")
        values = [e.value for e in estimates]
        axes.plot(scored_epochs, values, style, color=color, marker="o", markersize=4, label=label)
        bounds = [e.low for e in estimates], [e.high for e in estimates]
        axes.fill_between(scored_epochs, *bounds, color=color, alpha=0.10, linewidth=0)
    by_limit: dict[float, list[str]] = {}
    for name, limit in policy.max.items():
        by_limit.setdefault(limit, []).append(name.replace("_", " "))
    for limit, names in by_limit.items():
        axes.axhline(limit, color="black", linestyle=":", linewidth=1)
        if legend:
            axes.annotate(
                f"limit of {', '.join(names)}",
                (epochs[0], limit),
                fontsize=8,
                xytext=(0, 3),
                textcoords="offset points",
            )
    axes.axvspan(
        selected.epoch - 0.15, selected.epoch + 0.15, color=SELECTED_COLOR, alpha=0.25, linewidth=0
    )
    late = selected.epoch > sum(epochs) / len(epochs)
    axes.annotate(
        f"kept: {selected.label}",
        (selected.epoch, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if late else 6, -14),
        ha="right" if late else "left",
        textcoords="offset points",
        color=SELECTED_COLOR,
        weight="bold",
    )
    axes.set_title(title, loc="left")
    axes.set_xlabel(selected.unit)
    if len(epochs) <= MAX_TICKS:
        axes.set_xticks(epochs)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if legend:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    axes.grid(alpha=0.2)
