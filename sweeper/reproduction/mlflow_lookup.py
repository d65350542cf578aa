"""MLflow asked for the run that is meant: by its id, by its sweep's, by its study's name."""

from __future__ import annotations

import difflib

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from evaluate.tracking.mlflow_store import STORE_ERRORS, MlflowStore
from sweeper.tracking.run_tags import noted
from train.config.parsing import cause, suggestion
from train.config.ranges import format_value
from train.errors import ConfigError

RECENT = 1000  # runs among which the nearest to a wrong id is looked for


def client_of(store: MlflowStore) -> MlflowClient:
    """A client of a store that is there.

    Raises:
        ConfigError: there is none, or it does not answer.
    """
    store.check_existing()
    try:
        return store.client
    except STORE_ERRORS as error:
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: {store.uri} does not answer ({cause(error)})"
        ) from None


def find_run(client: MlflowClient, run_id: str) -> Run:
    """The run of a trial; of a sweep, its best trial's.

    Raises:
        ConfigError: no such run (with the nearest there is), or one of neither.
    """
    found = _run(client, run_id)
    about = noted(found)
    if not about.study:
        raise ConfigError(f"run_id: {run_id} is neither a trial's run nor a sweep's")
    if about.trial is not None:
        return found
    if not about.best:
        raise ConfigError(
            f"run_id: the sweep {about.study} has no best trial yet; take the run of one of its "
            f"trials{_listed(_trials(client, found.info.experiment_id))}"
        )
    best = _run(client, about.best)
    if noted(best).trial is None or noted(best).study != about.study:
        raise ConfigError(f"run_id: the best trial of {run_id} is said to be {about.best}, which "
                          f"is no trial of {about.study}")  # fmt: skip
    return best


def _run(client: MlflowClient, run_id: str) -> Run:
    try:
        return client.get_run(run_id)
    except MlflowException:
        raise ConfigError(
            f"run_id: there is no run {format_value(run_id)[1:-1]} in "
            f"MLflow{_nearest(client, run_id)}"
        ) from None


def find_best(client: MlflowClient, study: str) -> Run:
    """The run of a study's best trial.

    Raises:
        ConfigError: no such study (with the nearest there is), or it has no best trial yet.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        known = [e.name for e in client.search_experiments() if e.name != "Default"]
        near = suggestion(study, known) or _listed(known)
        raise ConfigError(f"study: MLflow has no study {study}{near}")
    sweeps = [
        run
        for run in client.search_runs([experiment.experiment_id], f"tags.study = '{study}'")
        if "trial" not in run.data.tags
    ]
    if not sweeps:
        raise ConfigError(f"study: there is no sweep in {study}")
    return find_run(client, sweeps[0].info.run_id)  # the latest


def _nearest(client: MlflowClient, wanted: str) -> str:
    """`; did you mean ...?`: the run that begins so, or else the one most alike."""
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(everywhere, max_results=RECENT)
    names = {run.info.run_id: run.info.run_name for run in runs}
    alike = [known for known in names if wanted and known.startswith(wanted)]
    alike = alike or difflib.get_close_matches(wanted, [*names], n=1, cutoff=0.5)
    return f"; did you mean {alike[0]} ({names[alike[0]]})?" if alike else ""


def _trials(client: MlflowClient, experiment: str) -> list[str]:
    runs = client.search_runs([experiment], "tags.trial != ''", max_results=5)
    return [f"{run.info.run_id} ({run.info.run_name})" for run in runs]


def _listed(names: list[str]) -> str:
    return f"; there are {', '.join(names)}" if names else ""
