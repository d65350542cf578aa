"""Finds a run in MLflow: by its ID, by its sweep's ID, or by its study's name."""

from __future__ import annotations

import difflib

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from evaluate.tracking.mlflow_store import STORE_ERRORS, MlflowStore
from sweeper.tracking.run_tags import parse_run_tags
from train.config.parsing import cause, suggestion
from train.config.ranges import format_value
from train.errors import ConfigError

RECENT = 1000  # latest runs that are searched for an ID similar to a wrong one


def client_of(store: MlflowStore) -> MlflowClient:
    """A client of an existing store.

    Raises:
        ConfigError: the store does not exist, or does not answer.
    """
    store.check_existing()
    try:
        return store.client
    except STORE_ERRORS as error:
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: {store.uri} does not answer ({cause(error)})"
        ) from None


def find_run(client: MlflowClient, run_id: str) -> Run:
    """The run of a trial; for a sweep's ID, the run of its best trial.

    Raises:
        ConfigError: there is no such run (suggesting a similar ID), or it is neither of a trial
            nor of a sweep.
    """
    run = _get_run(client, run_id)
    tags = parse_run_tags(run)
    if not tags.study:
        raise ConfigError(f"run_id: {run_id} is neither a trial's run nor a sweep's")
    if tags.trial is not None:
        return run
    if not tags.best_run_id:
        trials = _list_hint(_recent_trials(client, run.info.experiment_id))
        raise ConfigError(
            f"run_id: the sweep {tags.study} has no result yet, since its search has not ended; "
            f"type run_id= of one of its trials that have{trials}"
        )
    best = _get_run(client, tags.best_run_id)
    if parse_run_tags(best).trial is None or parse_run_tags(best).study != tags.study:
        raise ConfigError(
            f"run_id: {run_id} names {tags.best_run_id} as its best trial, but that is not a "
            f"trial of {tags.study}"
        )
    return best


def _get_run(client: MlflowClient, run_id: str) -> Run:
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
        ConfigError: there is no such study (suggesting a similar name), or it has no best trial.
    """
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        names = [e.name for e in client.search_experiments() if e.name != "Default"]
        hint = suggestion(study, names) or _list_hint(names)
        raise ConfigError(f"study: MLflow has no study {study}{hint}")
    sweeps = [
        run
        for run in client.search_runs([experiment.experiment_id], f"tags.study = '{study}'")
        if "trial" not in run.data.tags
    ]
    if not sweeps:
        raise ConfigError(f"study: there is no sweep in {study}")
    return find_run(client, sweeps[0].info.run_id)  # the latest one


def _nearest(client: MlflowClient, run_id: str) -> str:
    """`; did you mean ...?` with the run ID that starts the same, or is most similar."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=RECENT)
    names = {run.info.run_id: run.info.run_name for run in runs}
    matches = [name for name in names if run_id and name.startswith(run_id)]
    matches = matches or difflib.get_close_matches(run_id, [*names], n=1, cutoff=0.5)
    return f"; did you mean {matches[0]} ({names[matches[0]]})?" if matches else ""


def _recent_trials(client: MlflowClient, experiment: str) -> list[str]:
    runs = client.search_runs([experiment], "tags.trial != ''", max_results=5)
    return [f"{run.info.run_id} ({run.info.run_name})" for run in runs]


def _list_hint(names: list[str]) -> str:
    return f"; known: {', '.join(names)}" if names else ""
