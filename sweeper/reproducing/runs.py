"""MLflow asked for the run that is meant: by its id, by its sweep's, by its study's name."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from evaluate.tracking import AWAY, Store
from train.config import ConfigError, cause, suggestion

RECENT = 1000  # runs among which the nearest to a wrong id is looked for


def client_of(store: Store) -> MlflowClient:
    """A client of a store that is there.

    Raises:
        ConfigError: there is none, or it does not answer.
    """
    store.check_existing()
    try:
        return store.client
    except AWAY as error:
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: {store.uri} does not answer ({cause(error)})"
        ) from None


def find_run(client: MlflowClient, run_id: str) -> Run:
    """The run of a trial; of a sweep, its best trial's.

    Raises:
        ConfigError: no such run (with the nearest there is), or one of neither.
    """
    try:
        found = client.get_run(run_id)
    except MlflowException:
        raise ConfigError(
            f"run_id: there is no run {run_id} in MLflow{_nearest(client, run_id)}"
        ) from None
    tags = found.data.tags
    if "trial" in tags:
        return found
    if "study" not in tags:
        raise ConfigError(f"run_id: {run_id} is neither a trial's run nor a sweep's")
    if not tags.get("best_run_id"):
        raise ConfigError(
            f"run_id: the sweep {tags['study']} has no best trial yet; take the run of one of its "
            f"trials{_listed(_trials(client, found.info.experiment_id))}"
        )
    return find_run(client, tags["best_run_id"])


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


def artifact(client: MlflowClient, run: Run, name: str) -> str | None:
    """The text of an artifact; None where the run has none of that name, or it is out of reach."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(run.info.run_id, name, folder)
            return Path(file).read_text(encoding="utf-8")
        except (*AWAY, UnicodeDecodeError):
            return None


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
