"""Mirrors the local records to MLflow: logs whatever is missing there, as often as necessary."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from evaluate.config import PolicyConfig
from evaluate.images.epoch_grid import epoch_grid
from evaluate.scorecard import Scorecard
from evaluate.selection.diagnosis import describe, diagnose
from evaluate.selection.explain import format_comparison_value
from evaluate.tracking.mlflow_store import NOTE_TAG, MlflowStore, TrackedRun
from evaluate.tracking.store_address import RUN_FILE
from sweeper.tracking.background import BackgroundThread
from sweeper.tracking.markdown import escape_markdown, markdown_code
from sweeper.tracking.mlflow_metrics import epoch_metrics, study_metrics
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    TrialRecord,
    load_record,
    load_records,
)
from train.config.flattening import flatten

Winner = tuple[TrialRecord, Scorecard]
BASE_SHEET = "base.png"  # in a study's folder: the probe images of the base without a LoRA
STATUS = {COMPLETE: "FINISHED", STOPPED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}


@dataclass(frozen=True)
class StudyInfo:
    """The information that is logged when a study begins.

    Attributes:
        params: the settings that its trials share, the search space, the budget.
        tags: fingerprints, versions, hardware.
        texts: artifact name -> content.
        images: name in the image grid -> file.
    """

    params: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    images: dict[str, Path] = field(default_factory=dict)


class MlflowMirror(MlflowStore):
    """Logs a study: a parent run, and a run for each trial.

    It works in the background, so that training never waits for a tracking server.

    Args:
        root: folder of the embedded store, unless MLFLOW_TRACKING_URI names another.
        study: the study's folder.
    """

    def __init__(self, root: Path, study: Path) -> None:
        super().__init__(root, study.name)
        self.study = study
        self.parent = TrackedRun(self, study / RUN_FILE, f"sweep {study.name}", study.name)
        self._info: StudyInfo | None = None
        self._background = BackgroundThread()
        self._pending: set[Path] = set()  # folders of trials to be mirrored

    def begin(self, info: StudyInfo) -> None:
        """Creates or resumes the parent run of the sweep."""
        self._info = info
        self._background.submit(self._try_begin)

    def flush(self) -> None:
        """Blocks until everything has been logged, or logging has failed."""
        self._background.wait()

    def _try_begin(self) -> None:
        with self.tolerate_outage():
            self._begin()

    def _begin(self) -> None:
        if not self._info:
            return
        run, info = self.parent, self._info
        with FileLock(self.study / "mlflow.lock"):  # another worker may create it at this moment
            run.begin({**info.tags, "study": self.study.name})
            run.resume()
            run.log_once("params", lambda: run.log_params(info.params))
            for name, text in info.texts.items():
                run.log_once(name, partial(run.log_text, text, name))
            for name, file in info.images.items():
                run.log_once(name, partial(run.log_image, file, name, 0))

    def mirror(self, record: TrialRecord, policy: PolicyConfig) -> None:
        """Logs whatever is in the trial's record on disk and not yet in its run."""
        if record.folder not in self._pending:
            self._pending.add(record.folder)
            self._background.submit(partial(self._mirror, record.folder, policy))

    def _mirror(self, folder: Path, policy: PolicyConfig) -> None:
        self._pending.remove(folder)
        record = load_record(folder)
        with self.tolerate_outage():
            run = self.run_for(record)
            tags = {**record.tags, "study": record.study, "trial": str(record.number)}
            tags |= {"state": record.state, "reason": record.reason}
            is_separate = "reproduction_of" in tags and not self.parent.saved_id
            run.begin(tags, None if is_separate else self.parent)
            if not record.finished and record.state != INTERRUPTED:
                run.resume()
            run.log_once("params", lambda: run.log_params(_params(record.settings)))
            run.log_once("config", lambda: run.log_text(_yaml(record.settings), "config.yaml"))
            overrides = _yaml(record.overrides)
            run.log_once("overrides", lambda: run.log_text(overrides, "overrides.yaml"))

            self._log_epochs(run, record)
            if record.state in STATUS:
                run.log_once(f"end {record.state}", lambda: self._end(run, record, policy))

    def _log_epochs(self, run: TrackedRun, record: TrialRecord) -> None:
        """Logs the metrics of all missing epochs in one batch, then their contact sheets."""
        logged = run.saved_field("epochs")
        missing = [e for e in record.epochs if str(e.scorecard.epoch) not in logged]
        if missing:
            run.log_metrics([metric for epoch in missing for metric in epoch_metrics(epoch)])
            run.save_state(epochs=logged | {str(e.scorecard.epoch): e.time for e in missing})
        for number, sheet in self._sheets(record).items():
            run.log_once(f"sheet {number}", partial(run.log_image, sheet, "contact_sheet", number))

    def _sheets(self, record: TrialRecord) -> dict[int, Path]:
        """The contact sheet of each epoch; epoch 0, which MLflow shows first, is the base's."""
        sheets = {card.epoch: record.sheet(card.epoch) for card in record.scorecards}
        base = self.study / BASE_SHEET
        return {0: base, **sheets} if base.is_file() else sheets

    def run_for(self, record: TrialRecord) -> TrackedRun:
        """The MLflow run of a trial."""
        return TrackedRun(self, record.folder / RUN_FILE, record.name, record.study)

    def finalize(self, winner: Winner | None, files: list[Path], tags: dict[str, str]) -> None:
        """Logs the study's files, ends the parent run and sets the alias `champion`.

        Args:
            winner: the trial of the selected checkpoint, and its scorecard.
        """
        self._background.submit(partial(self._finalize, winner, files, tags))
        self.flush()

    def _finalize(self, winner: Winner | None, files: list[Path], tags: dict[str, str]) -> None:
        with self.tolerate_outage():
            self._begin()  # again, in case the store was unreachable before
            run = self.parent
            for file in files:
                self.client.log_artifact(run.id, str(file))
                if file.suffix == ".png":
                    run.log_image(file, file.stem, 0)
            run.set_tags(tags)
            if NOTE_TAG in tags:
                self.client.set_experiment_tag(self.experiment, NOTE_TAG, tags[NOTE_TAG])
            self.client.set_terminated(run.id, "FINISHED")
            if winner is None:
                return
            record, card = winner
            # again, since another policy may have selected another epoch
            self.run_for(record).log_file(record.folder / "trial.json", "scorecards.json")
            if version := self._register(record, card):
                self.client.set_registered_model_alias(self.study.name, "champion", version)

    def interrupt(self) -> None:
        """Ends the parent run as killed; the same command resumes it."""
        self._background.submit(self._interrupt)
        self.flush()

    def _interrupt(self) -> None:
        with self.tolerate_outage():
            if self.parent.saved_id:
                self.client.set_terminated(self.parent.id, "KILLED")

    def _end(self, run: TrackedRun, record: TrialRecord, policy: PolicyConfig) -> None:
        if record.scorecards:
            findings = describe(diagnose(record.scorecards, policy))
            run.set_tags({"diagnosis": findings, NOTE_TAG: _run_description(record, findings)})
            run.log_image(epoch_grid(self._sheets(record), record.selected), "epochs", 0)
        run.log_file(record.folder / "trial.json", "scorecards.json")
        if record.selected is not None:
            self._register(record, record.card_of(record.selected))
            if self.parent.saved_id and "reproduction_of" not in record.tags:
                self.parent.log_metrics(study_metrics(load_records(self.study), record, policy))
        self.client.set_terminated(run.id, STATUS[record.state])

    def _register(self, record: TrialRecord, card: Scorecard) -> str:
        """Registers a checkpoint of a trial as a model version, once.

        Returns:
            The version; empty if the checkpoint's file is missing. An alias points to a single
            version, so each trial gets an alias of its own (`candidate-NUMBER`).
        """
        name = card.checkpoint.stem if card.is_variant else f"{card.epoch:06d}"
        run, folder = self.run_for(record), f"checkpoint-{name}"
        versions = run.saved_field("versions")
        if folder not in versions:
            if not card.checkpoint.is_file():
                return ""
            self.client.log_artifact(run.id, str(card.checkpoint), folder)
            self._create_model()
            version = self.client.create_model_version(
                self.study.name,
                source=f"{self.client.get_run(run.id).info.artifact_uri}/{folder}",
                run_id=run.id,
                tags={
                    "epoch": str(card.epoch),
                    "trial": str(record.number),
                    "strength": f"{card.strength:g}",
                    "averaged": str(card.averaged),
                },
                description=escape_markdown(
                    f"trial {record.number}, {card.label}, fidelity {format_comparison_value(card)}"
                ),
            ).version
            versions = {**versions, folder: str(version)}
            run.save_state(versions=versions)
        run.set_tags({"selected_epoch": str(card.epoch)})
        candidate = f"candidate-{record.name.split(' ', 1)[1].replace(' ', '-')}"
        self.client.set_registered_model_alias(self.study.name, candidate, versions[folder])
        return str(versions[folder])

    def _create_model(self) -> None:
        """Creates the study's registered model, unless another worker already has."""
        try:
            self.client.create_registered_model(self.study.name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise


def _run_description(record: TrialRecord, findings: str) -> str:
    """The Markdown description of a trial's run."""
    settings = ", ".join(markdown_code(f"{key}={value}") for key, value in record.params.items())
    selected = f"Epoch {record.selected} is selected." if record.selected is not None else ""
    reason = escape_markdown(record.reason)
    ending = f"{record.state}: {reason}" if reason else record.state
    diagnosis = "\n".join(map(escape_markdown, findings.split("\n")))
    return "\n\n".join(
        part for part in (settings, f"{selected} State: {ending}.", diagnosis) if part
    )


def _params(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without the search space, which is logged with the parent run."""
    return flatten({name: value for name, value in settings.items() if name != "search"})


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
