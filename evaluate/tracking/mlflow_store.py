"""MLflow: its store, which may be away for a while, and runs that are never logged twice."""

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
from evaluate.tracking.store_address import DATABASE, VARIABLE, Address, Memory, remembered
from evaluate.tracking.tracking_uri import check_tracking, refusal
from train.config.parsing import cause
from train.errors import ConfigError
from train.files.atomic_write import write_atomically
from train.files.permissions import is_foreign
from train.files.untrusted import read_text
from train.text.display import storable

log = logging.getLogger(__name__)
for _chatty in ("mlflow", "alembic"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)
# it prints a traceback of what it then raises, and what is raised is told here in a line
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
AWAY = (MlflowException, RequestException, SQLAlchemyError, OSError)
LONGEST = {"params": 6000, "tags": 5000}  # characters; MLflow would cut longer ones
METRICS, PARAMS = 1000, 100  # in one batch
# MLflow's page has two halves, one of them for chat programs
KIND = {"mlflow.experimentKind": "custom_model_development"}
ARTIFACTS = "artifacts"  # the embedded store's folder of them
STUDY = "study"  # the tag that says which study a run is of
NOTE = "mlflow.note.content"  # a tag that the page shows as the description, in Markdown


class MlflowStore(Address):
    """Where runs go: MLFLOW_TRACKING_URI, or else the embedded store.

    Nothing here may stop the work. What a run lacks (`done` in mlflow.json says what it has) is
    logged at the next occasion.

    Args:
        root: where the embedded store is.
        name: of the experiment.
    """

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self.name = name
        self._client: MlflowClient | None = None
        self._told: set[str] = set()

    @property
    def client(self) -> MlflowClient:
        """The client, with the embedded store made where there is none.

        Raises:
            ConfigError: see `check_tracking`.
        """
        if self._client is None:
            check_tracking(self.root)
            mlflow.set_tracking_uri(self.uri)
            self.root.mkdir(parents=True, exist_ok=True)
            # several processes that create the embedded store at once break it for good
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
        """A client that makes, locks and moves nothing.

        Raises:
            ConfigError: there is no such store; see `check_tracking`.
        """
        self.check_existing()
        check_tracking(self.root)
        return MlflowClient(self.uri)

    def check_existing(self) -> None:
        """Raises ConfigError where the embedded store is not there."""
        if self.embedded and not (self.root / DATABASE).is_file():
            raise ConfigError(
                f"root: there is no {DATABASE} in {self.root}; root= says where it is, and "
                f"{VARIABLE} which server to ask"
            )

    def add_file(self, run_id: str, study: str, file: Path) -> None:
        """Logs a file to the run of a study, if it is one, and changes nothing else.

        Raises:
            ConfigError: it is not; or see `existing`.
        """
        client = self.existing()
        run = client.get_run(run_id)
        if run.data.tags.get(STUDY) != study:
            raise ConfigError(f"{file.name} is not logged, as run {run_id} is of another study")
        if not self.has_files_of(run):
            raise ConfigError(
                f"{file.name} is not logged, as the files of run {run_id} are not in "
                f"{self.root / ARTIFACTS}; where the store was moved, the next sweep notes it"
            )
        client.log_artifact(run_id, str(file))

    def has_files_of(self, run: MlflowRun) -> bool:
        """Whether a run's artifacts are where this store keeps them: the embedded one below its own
        folder; a server knows by itself."""
        if not self.embedded:
            return True
        return self._is_own(str(run.info.artifact_uri))

    def _is_own(self, address: str) -> bool:
        """Whether an address of files is one below the embedded store's folder of them."""
        try:
            place = urlsplit(address)
            written = url2pathname(place.path)
            if place.scheme != "file" or is_foreign(written):
                return False
            return Path(written).resolve().is_relative_to((self.root / ARTIFACTS).resolve())
        except (OSError, ValueError):  # no address, or none that a file can have
            return False

    def _create(self) -> None:
        """Makes the embedded store in one piece: MLflow cannot use one that is half made."""
        log.info("creating MLflow's store (once, about 10 s)")
        partial = self.root / f"{DATABASE}.partial"
        partial.unlink(missing_ok=True)  # of a process that died just then
        MlflowClient(f"sqlite:///{partial.as_posix()}").search_experiments(max_results=1)
        partial.replace(self.root / DATABASE)

    @property
    def artifacts(self) -> str:
        """Where the embedded store keeps them."""
        return (self.root / ARTIFACTS).as_uri()

    @property
    def experiment(self) -> str:
        """The id of the experiment, made where there is none."""
        with FileLock(self.root / "mlflow.lock"):
            found = self.client.get_experiment_by_name(self.name)
            if found is not None and self.embedded and not self._is_own(found.artifact_location):
                raise ConfigError(
                    f"the store has the files of {self.name} written elsewhere than into "
                    f"{self.root / ARTIFACTS}, so nothing is logged to it; move "
                    f"{self.root / DATABASE} away, and it is made anew"
                )
            if found is not None:
                return str(found.experiment_id)
            place = self.artifacts if self.embedded else None
            return str(self.client.create_experiment(self.name, place, KIND))

    @contextmanager
    def tolerate_outage(self) -> Iterator[None]:
        """Says once that the store is away, or what is wrong with it, and goes on."""
        try:
            yield
        except (*AWAY, ConfigError) as error:
            wrong = str(error) if isinstance(error, ConfigError) else refusal(error, self.uri)
            words = f"MLflow: {wrong}" if wrong else f"MLflow is away ({cause(error)})"
            if words not in self._told and (wrong or not self._told):
                when = "that is fixed" if wrong else "it is back"
                log.warning(f"{words}; its part is logged once {when}")
            self._told.add(words)


class TrackedRun:
    """An MLflow run whose id, and what is logged to it, are remembered in a file.

    Args:
        study: that the run is of; one of another study is not this one, whatever the file says.
    """

    def __init__(self, store: MlflowStore, file: Path, name: str, study: str | None = None) -> None:
        self.store, self.file, self.name = store, file, name
        self.about_study = {} if study is None else {STUDY: study}

    def _state(self) -> Memory:
        return remembered(self.store, self.file)

    def remember(self, **news: Any) -> None:
        """Notes what is logged now, by the names of `Memory`'s fields."""
        saved = msgspec.json.encode(msgspec.structs.replace(self._state(), **news))
        write_atomically(self.file, msgspec.json.format(saved, indent=1))

    @property
    def id_now(self) -> str:
        """The run's id, empty where it has none yet."""
        return self._state().run_id

    @property
    def id(self) -> str:
        """The run's id; the run is made where it was not."""
        if not self.id_now:
            client, place = self.store.client, self.store.experiment
            run = client.create_run(place, run_name=self.name, tags=self.about_study)
            self.remember(run_id=run.info.run_id, done=[])
        return self.id_now

    def recall(self, name: str) -> dict[str, Any]:
        """What was remembered under a name; empty where nothing was."""
        return dict(getattr(self._state(), name))

    def renew(self, about: dict[str, str]) -> None:
        """Another run begins where this one is of something else.

        Args:
            about: what is logged hangs on it; what the run did not know yet may be added.
        """
        self._forget_lost()
        known = self.recall("about") or self.recall("tags")
        other = [key for key, value in about.items() if known.get(key, value) != value]
        if other and self.id_now:
            log.info(f"a new MLflow run: {', '.join(other)} not as in the one before")
            self.file.unlink()
        self.remember(about={**self.recall("about"), **about})

    def begin(self, tags: dict[str, str], parent: TrackedRun | None = None) -> None:
        """The run is there, with its tags; with those that have changed, where it was before."""
        self._forget_lost()
        above = {MLFLOW_PARENT_RUN_ID: parent.id} if parent else {}
        wanted, known = tags | above | _command(), self.recall("tags")
        if news := {key: value for key, value in wanted.items() if known.get(key) != value}:
            self.set_tags(news)
            self.remember(tags=known | news)

    def resume(self) -> None:
        """The run is at work, for the first time or again."""
        if self.store.client.get_run(self.id).info.status != "RUNNING":
            self.store.client.update_run(self.id, status="RUNNING")
            self.remember(done=[d for d in self._state().done if not d.startswith("end ")])

    def _forget_lost(self) -> None:
        """Where the store was emptied, or is another one, the run is begun anew; so it is where the
        file names a run of another study, or one whose files would be written elsewhere."""
        if self.id_now and not self._exists():
            self.file.unlink()

    def _exists(self) -> bool:
        try:
            run = self.store.client.get_run(self.id_now)
            own = self.about_study.items() <= run.data.tags.items()
            return own and self.store.has_files_of(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def once(self, what: str, action: Callable[[], object]) -> None:
        """Does something to this run unless it was done before."""
        if what not in self._state().done:
            action()
            self.remember(done=[*self._state().done, what])

    def log_params(self, params: dict[str, Any]) -> None:
        entries = [
            Param(key, self._whole("params", key, storable(str(v)))) for key, v in params.items()
        ]
        for start in range(0, len(entries), PARAMS):
            self.store.client.log_batch(self.id, params=entries[start : start + PARAMS])

    def log_metrics(self, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), METRICS):
            self.store.client.log_batch(self.id, metrics=metrics[start : start + METRICS])

    def set_tags(self, tags: dict[str, str]) -> None:
        entries = [
            RunTag(key, self._whole("tags", key, storable(value))) for key, value in tags.items()
        ]
        self.store.client.log_batch(self.id, tags=entries)

    def _whole(self, kind: str, key: str, value: str) -> str:
        """The value; or where it is too long for MLflow, the name of the artifact that has it."""
        if len(value) <= LONGEST[kind]:
            return value
        file = f"{kind}/{key.replace('/', '-')}.txt"
        self.log_text(value, file)
        return f"its {len(value)} characters are in the artifact {file}"

    def log_text(self, text: str, name: str) -> None:
        self.store.client.log_text(self.id, storable(text), name)

    def log_file(self, file: Path, name: str) -> None:
        self.log_text(read_text(file), name)

    def log_image(self, image: Path | Image.Image, name: str, step: int) -> None:
        """Into the page's image grid."""
        shown = read_png(image) if isinstance(image, Path) else image
        self.store.client.log_image(
            self.id, shown, key=f"pictures/{name}", step=step, synchronous=True
        )


def _command() -> dict[str, str]:
    """What the page shows as a run's source: `python -m ...`."""
    module = getattr(sys.modules["__main__"].__spec__, "name", "").removesuffix(".__main__")
    return {MLFLOW_SOURCE_NAME: f"python -m {module}"} if module else {}


def score_metrics(card: Scorecard, time: int) -> list[Metric]:
    """Every score with its bounds, with the epoch as their step.

    The bounds are a group of their own: the charts of the scores would drown in them.

    Args:
        time: in milliseconds since 1970.
    """
    told = fidelity(card)
    figures = {} if told is None else {"scores/fidelity": told}
    for name, (value, low, high) in card.scores.items():
        figures |= {
            f"scores/{name}": value,
            f"scores/bounds/{name}_low": low,
            f"scores/bounds/{name}_high": high,
        }
    return [Metric(name, value, time, card.epoch) for name, value in figures.items()]
