"""MLflow: a store that may be unreachable for a while, and runs that are never logged twice."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import msgspec
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME
from PIL import Image
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from evaluate.images.contact_sheet import read_png
from evaluate.scorecard import Scorecard
from evaluate.selection.objective import fidelity
from evaluate.tracking.relocation import relocate
from evaluate.tracking.store_address import DATABASE, URI_VARIABLE, Address, RunState, load_state
from evaluate.tracking.tracking_uri import check_tracking, refusal_reason
from train.config.parsing import cause
from train.errors import ConfigError
from train.files.atomic_write import write_atomically
from train.files.permissions import is_foreign
from train.files.untrusted import read_text
from train.text.display import storable

log = logging.getLogger(__name__)
for _chatty in ("mlflow", "alembic"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)
# it prints a traceback of the exceptions that are reported here in one line
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
STORE_ERRORS = (MlflowException, RequestException, SQLAlchemyError, OSError)
MAX_LENGTHS = {"params": 6000, "tags": 5000}  # characters; MLflow would cut longer ones
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # the most in one batch
# the other kind of experiment on MLflow's page is for chat programs
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
ARTIFACTS = "artifacts"  # the embedded store's artifact folder
STUDY_TAG = "study"  # the tag with the study of a run
NOTE_TAG = "mlflow.note.content"  # a tag that the page shows as the description, in Markdown


class MlflowStore(Address):
    """The MLflow store at MLFLOW_TRACKING_URI, or else the embedded one.

    An outage never stops the work: what a run lacks (`done` in mlflow.json lists what it has) is
    logged later.

    Args:
        root: folder of the embedded store.
        name: of the experiment.
    """

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self.name = name
        self._client: MlflowClient | None = None
        self._reported: set[str] = set()

    @property
    def client(self) -> MlflowClient:
        """The client; the embedded store is created if it does not exist.

        Raises:
            ConfigError: see `check_tracking`.
        """
        if self._client is None:
            check_tracking(self.root)
            mlflow.set_tracking_uri(self.uri)
            self.root.mkdir(parents=True, exist_ok=True)
            # several processes that create the embedded store at once would corrupt it
            with FileLock(self.root / "mlflow.lock"):
                if self.embedded and not (self.root / DATABASE).exists():
                    self._create()
                elif self.embedded:
                    relocate(self.root / DATABASE, self.artifacts)
                client = MlflowClient(self.uri)
                client.search_experiments(max_results=1)
            self._client = client
        return self._client

    def existing(self) -> MlflowClient:
        """A client that creates, locks and moves nothing.

        Raises:
            ConfigError: the store does not exist; see `check_tracking`.
        """
        self.check_existing()
        check_tracking(self.root)
        return MlflowClient(self.uri)

    @property
    def exists(self) -> bool:
        """Whether there is a store; a server is taken to exist."""
        return not self.embedded or (self.root / DATABASE).is_file()

    def check_existing(self) -> None:
        """Raises ConfigError if the embedded store does not exist."""
        if not self.exists:
            raise ConfigError(
                f"root: there is no {DATABASE} in {self.root}; root= says where it is, and "
                f"{URI_VARIABLE} which server to ask"
            )

    def add_file(self, run_id: str, study: str, file: Path) -> None:
        """Logs a file to a run of the study, and changes nothing else.

        Raises:
            ConfigError: the run is of another study; or see `existing`.
        """
        client = self.existing()
        run = client.get_run(run_id)
        if run.data.tags.get(STUDY_TAG) != study:
            raise ConfigError(
                f"{file.name} is not logged because run {run_id} belongs to another study"
            )
        if not self.has_files_of(run):
            raise ConfigError(
                f"{file.name} is not logged because the files of run {run_id} are not in "
                f"{self.root / ARTIFACTS}; if the store was moved, the next sweep updates it"
            )
        client.log_artifact(run_id, str(file))

    def has_files_of(self, run: MlflowRun) -> bool:
        """Whether this store holds a run's artifacts: the embedded one holds those below its own
        folder; a server is always assumed to."""
        if not self.embedded:
            return True
        return self._is_own(str(run.info.artifact_uri))

    def _is_own(self, address: str) -> bool:
        """Whether an artifact address is below the embedded store's artifact folder."""
        try:
            url = urlsplit(address)
            path = url2pathname(url.path)
            if url.scheme != "file" or is_foreign(path):
                return False
            return Path(path).resolve().is_relative_to((self.root / ARTIFACTS).resolve())
        except (OSError, ValueError):  # not an address, or not one of a file
            return False

    def _create(self) -> None:
        """Creates the embedded store atomically: MLflow cannot use a partial one."""
        log.info("creating MLflow's store (once, about 10 s)")
        partial = self.root / f"{DATABASE}.partial"
        partial.unlink(missing_ok=True)  # left by a process that died
        MlflowClient(f"sqlite:///{partial.as_posix()}").search_experiments(max_results=1)
        partial.replace(self.root / DATABASE)

    @property
    def artifacts(self) -> str:
        """Address of the embedded store's artifact folder."""
        return (self.root / ARTIFACTS).as_uri()

    @property
    def experiment(self) -> str:
        """The id of the experiment, which is created if it does not exist."""
        with FileLock(self.root / "mlflow.lock"):
            existing = self.client.get_experiment_by_name(self.name)
            if existing and self.embedded and not self._is_own(existing.artifact_location):
                raise ConfigError(
                    f"the files of {self.name} are written elsewhere than into "
                    f"{self.root / ARTIFACTS}, so nothing is logged to it; move "
                    f"{self.root / DATABASE} away, and a new one is created"
                )
            if existing is not None:
                return str(existing.experiment_id)
            address = self.artifacts if self.embedded else None
            return str(self.client.create_experiment(self.name, address, EXPERIMENT_TAGS))

    @contextmanager
    def tolerate_outage(self) -> Iterator[None]:
        """Warns once if the store is unreachable or unusable, and continues."""
        try:
            yield
        except (*STORE_ERRORS, ConfigError) as error:
            reason = (
                str(error) if isinstance(error, ConfigError) else refusal_reason(error, self.uri)
            )
            message = f"MLflow: {reason}" if reason else f"MLflow is unavailable ({cause(error)})"
            if message not in self._reported and (reason or not self._reported):
                when = "that is fixed" if reason else "it is back"
                log.warning(f"{message}; its data is logged once {when}")
            self._reported.add(message)


class TrackedRun:
    """An MLflow run whose id, and what was logged to it, are saved in a file.

    Args:
        study: of the run; a run of another study is not used, whatever the file says.
    """

    def __init__(self, store: MlflowStore, file: Path, name: str, study: str | None = None) -> None:
        self.store, self.file, self.name = store, file, name
        self.study_tags = {} if study is None else {STUDY_TAG: study}

    def _state(self) -> RunState:
        return load_state(self.store, self.file)

    def save_state(self, **changes: Any) -> None:
        """Saves what was logged, by the names of `RunState`'s fields."""
        saved = msgspec.json.encode(msgspec.structs.replace(self._state(), **changes))
        write_atomically(self.file, msgspec.json.format(saved, indent=1))

    @property
    def saved_id(self) -> str:
        """The run's id; empty if it has none yet."""
        return self._state().run_id

    @property
    def id(self) -> str:
        """The run's id; the run is created if it does not exist."""
        if not self.saved_id:
            client, experiment = self.store.client, self.store.experiment
            run = client.create_run(experiment, run_name=self.name, tags=self.study_tags)
            self.save_state(run_id=run.info.run_id, done=[])
        return self.saved_id

    def saved_field(self, name: str) -> dict[str, Any]:
        """The saved value of a field; empty if there is none."""
        return dict(getattr(self._state(), name))

    def start_new_if_changed(self, about: dict[str, str]) -> None:
        """Starts another run if this one is about something else.

        Args:
            about: what the logged content depends on; new keys may be added.
        """
        self._forget_lost()
        saved = self.saved_field("about") or self.saved_field("tags")
        changed = [key for key, value in about.items() if saved.get(key, value) != value]
        if changed and self.saved_id:
            log.info(f"a new MLflow run, as {', '.join(changed)} changed since the previous one")
            self.file.unlink()
        self.save_state(about={**self.saved_field("about"), **about})

    def begin(self, tags: dict[str, str], parent: TrackedRun | None = None) -> None:
        """Creates the run, or updates the tags that have changed."""
        self._forget_lost()
        parent_tag = {MLFLOW_PARENT_RUN_ID: parent.id} if parent else {}
        tags, saved = tags | parent_tag | _command(), self.saved_field("tags")
        if changes := {key: value for key, value in tags.items() if saved.get(key) != value}:
            self.set_tags(changes)
            self.save_state(tags=saved | changes)

    def resume(self) -> None:
        """Marks the run as running."""
        if self.store.client.get_run(self.id).info.status != "RUNNING":
            self.store.client.update_run(self.id, status="RUNNING")
            self.save_state(done=[d for d in self._state().done if not d.startswith("end ")])

    def _forget_lost(self) -> None:
        """Forgets a run that the store no longer has, that is of another study, or whose artifacts
        would be written elsewhere, so that a new one is created."""
        if self.saved_id and not self._exists():
            self.file.unlink()

    def _exists(self) -> bool:
        try:
            run = self.store.client.get_run(self.saved_id)
            same_study = self.study_tags.items() <= run.data.tags.items()
            return same_study and self.store.has_files_of(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def log_once(self, key: str, action: Callable[[], object]) -> None:
        """Calls `action` unless `key` was logged before."""
        if key not in self._state().done:
            action()
            self.save_state(done=[*self._state().done, key])

    def log_params(self, params: dict[str, Any]) -> None:
        entries = [
            Param(key, self._value_or_artifact("params", key, storable(str(v))))
            for key, v in params.items()
        ]
        for start in range(0, len(entries), PARAMS_PER_BATCH):
            self.store.client.log_batch(self.id, params=entries[start : start + PARAMS_PER_BATCH])

    def log_metrics(self, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self.store.client.log_batch(self.id, metrics=metrics[start : start + METRICS_PER_BATCH])

    def set_tags(self, tags: dict[str, str]) -> None:
        entries = [
            RunTag(key, self._value_or_artifact("tags", key, storable(value)))
            for key, value in tags.items()
        ]
        self.store.client.log_batch(self.id, tags=entries)

    def _value_or_artifact(self, kind: str, key: str, value: str) -> str:
        """The value; if it is too long for MLflow, the name of an artifact that holds it."""
        if len(value) <= MAX_LENGTHS[kind]:
            return value
        file = f"{kind}/{key.replace('/', '-')}.txt"
        self.log_text(value, file)
        return f"its {len(value)} characters are in the artifact {file}"

    def log_text(self, text: str, name: str) -> None:
        self.store.client.log_text(self.id, storable(text), name)

    def log_file(self, file: Path, name: str) -> None:
        self.log_text(read_text(file), name)

    def log_image(self, image: Path | Image.Image, name: str, step: int) -> None:
        """Logs an image to the page's image grid."""
        pixels = read_png(image) if isinstance(image, Path) else image
        self.store.client.log_image(
            self.id, pixels, key=f"pictures/{name}", step=step, synchronous=True
        )


def _command() -> dict[str, str]:
    """The tag that the page shows as a run's source: `python -m ...`."""
    module = getattr(sys.modules["__main__"].__spec__, "name", "").removesuffix(".__main__")
    return {MLFLOW_SOURCE_NAME: f"python -m {module}"} if module else {}


def score_metrics(card: Scorecard, time: int) -> list[Metric]:
    """Every score with its bounds; the step is the epoch.

    The bounds have a group of their own, or they would crowd the charts of the scores.

    Args:
        time: in milliseconds since 1970.
    """
    value = fidelity(card)
    figures = {} if value is None else {"scores/fidelity": value}
    for name, (value, low, high) in card.scores.items():
        figures |= {
            f"scores/{name}": value,
            f"scores/bounds/{name}_low": low,
            f"scores/bounds/{name}_high": high,
        }
    return [Metric(name, value, time, card.epoch) for name, value in figures.items()]
