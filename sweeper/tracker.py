"""MLflow as a mirror of the local records: what is missing there is logged, again and again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import yaml
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from evaluate.config import PolicyConfig
from evaluate.merit import fidelity
from sweeper.config import flatten
from sweeper.record import COMPLETE, FAILED, INTERRUPTED, STOPPED, Record, ScoredEpoch
from train.checkpoint import write_atomically

log = logging.getLogger(__name__)
for _chatty in ("mlflow", "alembic"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)
AWAY = (MlflowException, RequestException, SQLAlchemyError, OSError)
STATUS = {COMPLETE: "FINISHED", STOPPED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}
LONGEST = 6000  # characters of a param; MLflow would cut a longer one


class Tracker:
    """Logs a study: a parent run, and a run for each trial.

    Nothing here may stop training. What a run lacks (`done` in mlflow.json says what it has) is
    logged at the next occasion, so that a server may be away for a while.

    Args:
        root: where the embedded store is, unless MLFLOW_TRACKING_URI names another.
        study: the folder of the study.
    """

    def __init__(self, root: Path, study: Path) -> None:
        self.root, self.study = root.resolve(), study
        embedded = f"sqlite:///{self.root}/mlflow.db"
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or embedded
        self.embedded = self.uri == embedded
        self.parent = Run(self, study / "mlflow.json", f"sweep {study.name}")
        self._client: MlflowClient | None = None
        self._about: tuple[dict[str, str], dict[str, str], str] | None = None
        self._told = False

    @property
    def client(self) -> MlflowClient:
        """The client, with the embedded store made where there is none."""
        if self._client is None:
            mlflow.set_tracking_uri(self.uri)
            self.root.mkdir(parents=True, exist_ok=True)
            # several processes that create the embedded store at once break it for good
            with FileLock(self.root / "mlflow.lock"):
                if self.embedded and not (self.root / "mlflow.db").exists():
                    log.info("creating MLflow's store (once, about 10 s)")
                client = MlflowClient(self.uri)
                client.search_experiments(max_results=1)
            self._client = client
        return self._client

    @property
    def experiment(self) -> str:
        """The study's experiment, made where there is none."""
        with FileLock(self.root / "mlflow.lock"):
            found = self.client.get_experiment_by_name(self.study.name)
            if found is not None:
                return str(found.experiment_id)
            place = f"file://{self.root}/artifacts" if self.embedded else None
            return str(self.client.create_experiment(self.study.name, place))

    @contextmanager
    def forgiving(self) -> Iterator[None]:
        """Says once that the store is away, and goes on."""
        try:
            yield
        except AWAY as error:
            if not self._told:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                log.warning(f"MLflow is away ({reason}); its part is logged once it is back")
            self._told = True

    def begin(self, params: dict[str, str], tags: dict[str, str], config: str) -> None:
        """The parent run of the sweep."""
        self._about = (params, {**tags, "study": self.study.name}, config)
        with self.forgiving():
            self._begin()

    def _begin(self) -> None:
        if self._about:
            run, (params, tags, config) = self.parent, self._about
            run.resume(tags)
            run.once("params", lambda: run.log_params(params))
            run.once("config", lambda: run.log_text(config, "config.yaml"))

    def mirror(self, record: Record, policy: PolicyConfig) -> None:
        """Logs whatever the run of a trial has not got yet."""
        with self.forgiving():
            run = self.run_of(record)
            tags = {**record.tags, "study": record.study, "trial": str(record.number)}
            if not record.finished and record.state != INTERRUPTED:
                apart = "reproduction_of" in tags and not self.parent.id_now
                run.resume(tags, None if apart else self.parent)
            run.once("params", lambda: run.log_params(_params(record.settings)))
            run.once("config", lambda: run.log_text(_yaml(record.settings), "config.yaml"))
            run.once("overrides", lambda: run.log_text(_yaml(record.overrides), "overrides.yaml"))
            for epoch in record.epochs:
                number = epoch.scorecard.epoch
                run.once(f"scores {number}", partial(run.log_metrics, metrics(epoch)))
                run.once(f"sheet {number}", partial(run.log_sheet, record.sheet(number), number))
            if record.state in STATUS:
                run.once(f"end {record.state}", lambda: self._end(run, record))

    def run_of(self, record: Record) -> Run:
        """The run of a trial."""
        return Run(self, record.folder / "mlflow.json", record.name)

    def conclude(self, winner: Record | None, files: list[Path], tags: dict[str, str]) -> None:
        """Ends the parent run with the study's files, and names the champion."""
        with self.forgiving():
            self._begin()  # again, in case the store was away then
            run = self.parent
            for file in files:
                self.client.log_artifact(run.id, str(file))
            run.set_tags(tags)
            self.client.set_terminated(run.id, "FINISHED")
            if winner is not None:
                version = self.run_of(winner).version or self._register(winner)
                self.client.set_registered_model_alias(self.study.name, "champion", version)

    def interrupt(self) -> None:
        """Ends the parent run as killed; the same command takes it up again."""
        with self.forgiving():
            if self.parent.id_now:
                self.client.set_terminated(self.parent.id, "KILLED")

    def _end(self, run: Run, record: Record) -> None:
        run.set_tags({"state": record.state, "reason": record.reason})
        run.log_file(record.folder / "trial.json", "scorecards.json")
        if record.selected is not None:
            run.set_tags({"selected_epoch": str(record.selected)})
            card = next(c for c in record.scorecards if c.epoch == record.selected)
            self.client.log_artifact(run.id, str(card.checkpoint), "checkpoint")
            self._register(record)
        self.client.set_terminated(run.id, STATUS[record.state])

    def _register(self, record: Record) -> str:
        """A model version of the trial's selected checkpoint."""
        run = self.run_of(record)
        if not self.client.search_registered_models(f"name = '{self.study.name}'"):
            self.client.create_registered_model(self.study.name)
        version = self.client.create_model_version(
            self.study.name,
            source=f"{self.client.get_run(run.id).info.artifact_uri}/checkpoint",
            run_id=run.id,
            tags={"epoch": str(record.selected), "trial": str(record.number)},
        ).version
        run.remember(version=str(version))
        return str(version)


class Run:
    """An MLflow run whose id, and what is logged to it, are remembered in a file."""

    def __init__(self, tracker: Tracker, file: Path, name: str) -> None:
        self.tracker, self.file, self.name = tracker, file, name

    def _state(self) -> dict[str, Any]:
        if self.file.is_file():
            saved: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
            if saved["uri"] == self.tracker.uri:
                return saved
        return {"uri": self.tracker.uri, "run_id": "", "done": []}

    def remember(self, **news: Any) -> None:
        write_atomically(self.file, json.dumps({**self._state(), **news}, indent=1).encode())

    @property
    def id_now(self) -> str:
        """The run's id, empty where it has none yet."""
        return str(self._state()["run_id"])

    @property
    def id(self) -> str:
        """The run's id; the run is made where it was not."""
        if not self.id_now:
            client = self.tracker.client
            run = client.create_run(self.tracker.experiment, run_name=self.name)
            self.remember(run_id=run.info.run_id, done=[])
        return self.id_now

    @property
    def version(self) -> str:
        """Of the registered model, empty where it is not registered."""
        return str(self._state().get("version", ""))

    def resume(self, tags: dict[str, str], parent: Run | None = None) -> None:
        """The run is at work, for the first time or again."""
        if self.id_now and not self._exists():
            self.file.unlink()  # the store was emptied
        above = {MLFLOW_PARENT_RUN_ID: parent.id} if parent else {}
        self.once("tags", lambda: self.set_tags(tags | above))
        if self.tracker.client.get_run(self.id).info.status != "RUNNING":
            self.tracker.client.update_run(self.id, status="RUNNING")
            self.remember(done=[d for d in self._state()["done"] if not d.startswith("end ")])

    def _exists(self) -> bool:
        try:
            return bool(self.tracker.client.get_run(self.id_now))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def once(self, what: str, action: Callable[[], object]) -> None:
        """Does something to this run unless it was done before."""
        done = self._state()["done"]
        if what not in done:
            action()
            self.remember(done=[*self._state()["done"], what])

    def log_params(self, params: dict[str, Any]) -> None:
        entries = [Param(key, str(v)) for key, v in params.items() if len(str(v)) <= LONGEST]
        for start in range(0, len(entries), 100):
            self.tracker.client.log_batch(self.id, params=entries[start : start + 100])

    def log_metrics(self, metrics: list[Metric]) -> None:
        self.tracker.client.log_batch(self.id, metrics=metrics)

    def set_tags(self, tags: dict[str, str]) -> None:
        entries = [RunTag(key, value) for key, value in tags.items()]
        self.tracker.client.log_batch(self.id, tags=entries)

    def log_text(self, text: str, name: str) -> None:
        self.tracker.client.log_text(self.id, text, name)

    def log_file(self, file: Path, name: str) -> None:
        self.log_text(file.read_text(encoding="utf-8"), name)

    def log_sheet(self, file: Path, epoch: int) -> None:
        with Image.open(file) as sheet:
            self.tracker.client.log_image(
                self.id, sheet.convert("RGB"), key="contact_sheet", step=epoch, synchronous=True
            )


def metrics(epoch: ScoredEpoch) -> list[Metric]:
    """All the figures of an epoch, with the epoch as their step."""
    card = epoch.scorecard
    figures = {
        "scores/fidelity": fidelity(card),
        "train/loss": epoch.train_loss,
        "train/lr": epoch.lr,
        "system/seconds_training": epoch.seconds_training,
        "system/seconds_scoring": epoch.seconds_scoring,
    }
    for name, (value, low, high) in card.scores.items():
        figures |= {
            f"scores/{name}": value,
            f"scores/{name}_low": low,
            f"scores/{name}_high": high,
        }
    return [Metric(name, value, epoch.time, card.epoch) for name, value in figures.items()]


def _params(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, less what was searched: that is the parent run's."""
    return flatten({name: value for name, value in settings.items() if name != "search"})


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
