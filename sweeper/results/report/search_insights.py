"""What Optuna tells of a search: which settings mattered, and how they went together."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from markupsafe import Markup
from matplotlib import pyplot, rc_context
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from optuna.visualization.matplotlib import plot_parallel_coordinate
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from evaluate.tracking.database_file import reading
from sweeper.results.ranking import short_key
from sweeper.results.report.charts import svg
from sweeper.study.storage import GRPC_SCHEME, find_study
from train.config.parsing import cause
from train.files.untrusted import UntrustedFileError

MIN_TRIALS = 4  # trials that tell of an importance
MAX_TRIALS, MAX_COLUMNS, MAX_LETTERS = (
    10_000,
    300,
    500,
)  # trials, columns, and letters of a name or a choice
# from what is seen least to what is seen best, on white and on black
WORST_COLOR, BEST_COLOR = "#868e96", "#d9480f"
LEGEND = {"Feasible": "within the limits", "Infeasible": "over a limit"}


@dataclass
class SearchInsights:
    """What is known of a search.

    Attributes:
        sentence: why the rest is missing; empty where it is there.
        importance: setting -> share of the differences in fidelity that it explains, greatest
            first.
        parallel: the plot of parallel coordinates.
        front: whether it looked for more than one thing, so that a front is its answer.
    """

    sentence: str = ""
    importance: list[tuple[str, float]] = field(default_factory=list)
    parallel: Markup | None = None
    front: bool = False


def analyze_search(study: Path, storage: str | None) -> SearchInsights:
    """The search behind a study's records; nothing that is wrong with it is an error here.

    Args:
        storage: that a person has named, as `study.storage`; None: the journal in the folder. What
            a record says of it is not heeded, since opening a database may make or change one.
    """
    optuna_study = find_study(study, storage) if storage is None or _has_studies(storage) else None
    if optuna_study is None:
        return SearchInsights(
            "Optuna's storage of this study cannot be reached, so this is left out; where it is a "
            "database, storage= names it."
        )
    insights = SearchInsights(front=len(optuna_study.directions) > 1)
    complete = optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not all(map(_has_values, complete)):
        insights.sentence = (
            "Optuna's storage of this study is damaged: it has a trial without a value."
        )
        return insights
    values = {trial.values[0] for trial in complete}
    if complete and not any(trial.distributions for trial in complete):
        insights.sentence = "These are single trials, not a search: there is nothing to compare."
    elif len(complete) < MIN_TRIALS:
        insights.sentence = (
            f"{len(complete)} finished trials are too few to tell which setting matters; "
            f"from {MIN_TRIALS} on it is told here."
        )
    elif _too_large(complete):
        insights.sentence = "The search is too large to be looked at here."
    elif len(values) < 2:
        insights.sentence = "All trials came to the same fidelity: no setting made a difference."
    else:
        try:
            # not Optuna's default: of a dozen trials that looks at the best one alone
            importance = get_param_importances(
                optuna_study, evaluator=FanovaImportanceEvaluator(seed=0), target=_fidelity
            )
            insights.importance = [(short_key(k), float(share)) for k, share in importance.items()]
            insights.parallel = _parallel_chart(optuna_study)
        except Exception as error:  # settings that no two trials share, and all that is damaged
            insights.sentence = f"Optuna cannot tell: {cause(error)}."
    return insights


def _has_studies(storage: str) -> bool:
    """Whether a database is one of Optuna's: in any other Optuna would make its tables, and a file
    that is not there it would begin. What a server has is not asked."""
    try:
        url = make_url(storage)
    except ArgumentError:
        return storage.startswith(GRPC_SCHEME)
    if url.get_backend_name() != "sqlite":
        return True
    try:
        with reading(Path(url.database or ""), "alembic_version", "studies") as database:
            return database.execute("SELECT 1 FROM alembic_version, studies").fetchone() is not None
    except (sqlite3.Error, OSError, UntrustedFileError):
        return False


def _parallel_chart(study: optuna.Study) -> Markup:
    """Optuna's plot, with our words and with colors that are seen on white and on black."""
    with rc_context():  # Optuna's drawing changes pyplot's style, and leaves it so
        pyplot.switch_backend("agg")
        axes = plot_parallel_coordinate(study, target=_fidelity, target_name="fidelity")
        figure = axes.get_figure(root=True)
        assert figure
        figure.set_size_inches(7.2, 4.2)
        axes.set_title("")
        names = [short_key(label.get_text()) for label in axes.get_xticklabels()]
        axes.set_xticks(axes.get_xticks(), names, rotation=0, ha="center", fontsize=10)
        for colorbar in [
            colorbar for colorbar in figure.axes if colorbar.get_label() == "<colorbar>"
        ]:
            colorbar.remove()  # the first axis has the same scale
        colors = LinearSegmentedColormap.from_list("seen", [WORST_COLOR, BEST_COLOR])
        for lines in axes.collections:
            if isinstance(lines, LineCollection):
                lines.set_cmap(colors)
                lines.set_linewidth(1.8)
        if legend := axes.get_legend():
            for line, text in zip(legend.get_lines(), legend.get_texts(), strict=True):
                line.set_color("black")
                text.set_text(LEGEND.get(text.get_text(), text.get_text()))
        label = "Each line is a trial: its fidelity, then its settings. The table has the figures."
        chart = svg(figure, label)
        pyplot.close(figure)
    return chart


def _has_values(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a finished trial has a number for a value."""
    return bool(trial.values) and all(isinstance(value, int | float) for value in trial.values)


def _too_large(trials: list[optuna.trial.FrozenTrial]) -> bool:
    """Whether Optuna would look at a search for minutes: each choice is a column in its eyes."""
    kinds = {name: kind for trial in trials for name, kind in trial.distributions.items()}
    choices = [
        choice
        for kind in kinds.values()
        for choice in (kind.choices if isinstance(kind, CategoricalDistribution) else [None])
    ]
    longest = max((len(str(text)) for text in (*kinds, *choices)), default=0)
    return len(trials) > MAX_TRIALS or len(choices) > MAX_COLUMNS or longest > MAX_LETTERS


def _fidelity(trial: optuna.trial.FrozenTrial) -> float:
    return trial.values[0]
