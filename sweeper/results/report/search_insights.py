"""Optuna's analysis of a search: which settings mattered, and how they combined."""

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
from optuna.search_space import intersection_search_space
from optuna.trial import TrialState
from optuna.visualization.matplotlib import plot_parallel_coordinate
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from evaluate.tracking.database_file import open_database
from sweeper.console.progress import varied_keys
from sweeper.results.ranking import short_key
from sweeper.results.report.charts import svg
from sweeper.study.storage import GRPC_SCHEME, find_study
from train.config.parsing import cause
from train.files.untrusted import UntrustedFileError

MIN_TRIALS = 4  # finished trials that an estimate of importance needs
# limits of a search that is analyzed; MAX_LETTERS: length of a name or a choice
MAX_TRIALS, MAX_COLUMNS, MAX_LETTERS = 10_000, 300, 500
# from the least to the most visible, on white and on black
WORST_COLOR, BEST_COLOR = "#868e96", "#d9480f"
LEGEND = {"Feasible": "within the limits", "Infeasible": "over a limit"}


@dataclass
class SearchInsights:
    """The analysis of a search.

    Attributes:
        sentence: why the analysis is missing; empty if it exists.
        importance: setting -> share of the variance in fidelity that it explains, in descending
            order.
        parallel: the parallel coordinate plot.
        front: whether the search has several objectives, so that its result is a Pareto front.
    """

    sentence: str = ""
    importance: list[tuple[str, float]] = field(default_factory=list)
    parallel: Markup | None = None
    front: bool = False


def analyze_search(study: Path, storage: str | None) -> SearchInsights:
    """Analyzes a study's search. Problems with the storage are reported, not raised.

    Args:
        storage: the storage that a person has typed, as in `study.storage`; None: the journal in
            the folder. A storage that a record names is ignored, because opening a database may
            create or change one.
    """
    optuna_study = find_study(study, storage) if storage is None or _has_studies(storage) else None
    if optuna_study is None:
        return SearchInsights(
            "Optuna's storage of this study cannot be reached, so this section is missing. If it "
            "is a database, name it with storage=."
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
        insights.sentence = "These are single trials, not a search, so there is nothing to compare."
    elif len(complete) < MIN_TRIALS:
        insights.sentence = (
            f"{len(complete)} finished trials are too few to estimate which settings matter; "
            f"at least {MIN_TRIALS} are needed."
        )
    elif _too_large(complete):
        insights.sentence = "The search is too large to be analyzed here."
    elif len(values) < 2:
        insights.sentence = "All trials have the same fidelity, so no setting made a difference."
    else:
        try:
            varied = varied_keys([trial.params for trial in complete])
            common = [key for key in intersection_search_space(complete) if key in varied]
            # Optuna's default evaluator would consider only the best of a dozen trials
            importance = get_param_importances(
                optuna_study,
                evaluator=FanovaImportanceEvaluator(seed=0),
                params=common or None,
                target=_fidelity,
            )
            insights.importance = [(short_key(k), float(share)) for k, share in importance.items()]
            insights.parallel = _parallel_chart(optuna_study)
        except Exception as error:  # no two trials share a setting, or the study is damaged
            insights.sentence = f"Optuna cannot analyze this search: {cause(error)}."
    return insights


def _has_studies(storage: str) -> bool:
    """Whether a storage contains Optuna studies. Only SQLite files are checked.

    In any other SQLite file, Optuna would create its tables; a missing file it would create.
    """
    try:
        url = make_url(storage)
    except ArgumentError:
        return storage.startswith(GRPC_SCHEME)
    if url.get_backend_name() != "sqlite":
        return True
    try:
        with open_database(Path(url.database or ""), "alembic_version", "studies") as database:
            return database.execute("SELECT 1 FROM alembic_version, studies").fetchone() is not None
    except (sqlite3.Error, OSError, UntrustedFileError):
        return False


def _parallel_chart(study: optuna.Study) -> Markup:
    """Optuna's parallel coordinate plot, restyled to be legible on white and on black."""
    with rc_context():  # Optuna changes pyplot's style and does not restore it
        pyplot.switch_backend("agg")
        varied = varied_keys([trial.params for trial in study.get_trials(deepcopy=False)])
        axes = plot_parallel_coordinate(
            study, varied or None, target=_fidelity, target_name="fidelity"
        )
        figure = axes.get_figure(root=True)
        assert figure
        figure.set_size_inches(7.2, 4.2)
        axes.set_title("")
        names = [_axis_name(label.get_text(), varied) for label in axes.get_xticklabels()]
        axes.set_xticks(axes.get_xticks(), names, rotation=0, ha="center", fontsize=10)
        for colorbar in [each for each in figure.axes if each.get_label() == "<colorbar>"]:
            colorbar.remove()  # the first axis shows the same scale
        colors = LinearSegmentedColormap.from_list("seen", [WORST_COLOR, BEST_COLOR])
        for lines in axes.collections:
            if isinstance(lines, LineCollection):
                lines.set_cmap(colors)
                lines.set_linewidth(1.8)
        if legend := axes.get_legend():
            for line, text in zip(legend.get_lines(), legend.get_texts(), strict=True):
                line.set_color("black")
                text.set_text(LEGEND.get(text.get_text(), text.get_text()))
        label = "Each line is a trial: its fidelity, then its settings. The table has the numbers."
        chart = svg(figure, label)
        pyplot.close(figure)
    return chart


def _axis_name(label: str, keys: list[str]) -> str:
    """The setting of an axis, whose label Optuna cuts off after some letters."""
    start = label.removesuffix("...")
    return short_key(next((key for key in keys if key.startswith(start)), label))


def _has_values(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether all values of a finished trial are numbers, and there is one."""
    return bool(trial.values) and all(isinstance(value, int | float) for value in trial.values)


def _too_large(trials: list[optuna.trial.FrozenTrial]) -> bool:
    """Whether Optuna would take minutes to analyze a search: each choice becomes a column."""
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
