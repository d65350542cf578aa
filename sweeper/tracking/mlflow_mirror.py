"""MLflow as a mirror of the local records: what is missing there is logged, again and again."""

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
from evaluate.selection.diagnosis import describe, diagnose
from evaluate.selection.explain import format_comparison_value
from evaluate.tracking.mlflow_store import NOTE_TAG, MlflowStore, TrackedRun
from evaluate.tracking.store_address import RUN_FILE
from sweeper.tracking.background import Background
from sweeper.tracking.markdown import code_in_markdown, in_markdown
from sweeper.tracking.mlflow_metrics import metrics, progress
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

BASE_SHEET = "base.png"  # in a study's folder: the probes as the base without a LoRA makes them
STATUS = {COMPLETE: "FINISHED", STOPPED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}


@dataclass(frozen=True)
class About:
    """What is known of a study when it begins.

    Attributes:
        params: what its trials share, the search space, the budget.
        tags: fingerprints, versions, hardware.
        texts: name of an artifact -> what is in it.
        pictures: name in the image grid -> file.
    """

    params: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


class MlflowMirror(MlflowStore):
    """Logs a study: a parent run, and a run for each trial.

    In the background: training does not wait for a server, still less for one that is away.

    Args:
        root: where the embedded store is, unless MLFLOW_TRACKING_URI names another.
        study: the folder of the study.
    """

    def __init__(self, root: Path, study: Path) -> None:
        super().__init__(root, study.name)
        self.study = study
        self.parent = TrackedRun(self, study / RUN_FILE, f"sweep {study.name}", study.name)
        self._about: About | None = None
        self._background = Background()
        self._behind: set[Path] = set()  # folders of trials that wait to be mirrored

    def begin(self, about: About) -> None:
        """The parent run of the sweep."""
        self._about = about
        self._background.do(self._begin_if_there)

    def catch_up(self) -> None:
        """Returns when everything is logged, or has failed to be."""
        self._background.finish()

    def _begin_if_there(self) -> None:
        with self.tolerate_outage():
            self._begin()

    def _begin(self) -> None:
        if not self._about:
            return
        run, about = self.parent, self._about
        with FileLock(self.study / "mlflow.lock"):  # another worker may begin it just now
            run.begin({**about.tags, "study": self.study.name})
            run.resume()
            run.log_once("params", lambda: run.log_params(about.params))
            for name, text in about.texts.items():
                run.log_once(name, partial(run.log_text, text, name))
            for name, file in about.pictures.items():
                run.log_once(name, partial(run.log_image, file, name, 0))

    def mirror(self, record: TrialRecord, policy: PolicyConfig) -> None:
        """Logs whatever the run of a trial has not got yet, as its record says on disk."""
        if record.folder not in self._behind:
            self._behind.add(record.folder)
            self._background.do(partial(self._mirror, record.folder, policy))

    def _mirror(self, folder: Path, policy: PolicyConfig) -> None:
        self._behind.remove(folder)
        record = load_record(folder)
        with self.tolerate_outage():
            run = self.run_of(record)
            tags = {**record.tags, "study": record.study, "trial": str(record.number)}
            tags |= {"state": record.state, "reason": record.reason}
            apart = "reproduction_of" in tags and not self.parent.saved_id
            run.begin(tags, None if apart else self.parent)
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
        """The figures of all the epochs that it lacks in one batch; then their contact sheets."""
        logged = run.saved_field("epochs")
        missing = [e for e in record.epochs if str(e.scorecard.epoch) not in logged]
        if missing:
            run.log_metrics([metric for epoch in missing for metric in metrics(epoch)])
            run.save_state(epochs=logged | {str(e.scorecard.epoch): e.time for e in missing})
        for number, sheet in self._sheets(record).items():
            run.log_once(f"sheet {number}", partial(run.log_image, sheet, "contact_sheet", number))

    def _sheets(self, record: TrialRecord) -> dict[int, Path]:
        """A contact sheet for each epoch, and at 0, which the page shows first, the base's."""
        sheets = {card.epoch: record.sheet(card.epoch) for card in record.scorecards}
        base = self.study / BASE_SHEET
        return {0: base, **sheets} if base.is_file() else sheets

    def run_of(self, record: TrialRecord) -> TrackedRun:
        """The run of a trial."""
        return TrackedRun(self, record.folder / RUN_FILE, record.name, record.study)

    def conclude(self, winner: TrialRecord | None, files: list[Path], tags: dict[str, str]) -> None:
        """Ends the parent run with the study's files, and names the champion."""
        self._background.do(partial(self._conclude, winner, files, tags))
        self.catch_up()

    def _conclude(
        self, winner: TrialRecord | None, files: list[Path], tags: dict[str, str]
    ) -> None:
        with self.tolerate_outage():
            self._begin()  # again, in case the store was away then
            run = self.parent
            for file in files:
                self.client.log_artifact(run.id, str(file))
                if file.suffix == ".png":
                    run.log_image(file, file.stem, 0)
            run.set_tags(tags)
            if NOTE_TAG in tags:
                self.client.set_experiment_tag(self.experiment, NOTE_TAG, tags[NOTE_TAG])
            self.client.set_terminated(run.id, "FINISHED")
            if winner is not None and (version := self._register(winner)):
                self.client.set_registered_model_alias(self.study.name, "champion", version)

    def interrupt(self) -> None:
        """Ends the parent run as killed; the same command takes it up again."""
        self._background.do(self._interrupt)
        self.catch_up()

    def _interrupt(self) -> None:
        with self.tolerate_outage():
            if self.parent.saved_id:
                self.client.set_terminated(self.parent.id, "KILLED")

    def _end(self, run: TrackedRun, record: TrialRecord, policy: PolicyConfig) -> None:
        if record.scorecards:
            findings = describe(diagnose(record.scorecards, policy))
            run.set_tags({"diagnosis": findings, NOTE_TAG: _note(record, findings)})
            run.log_image(epoch_grid(self._sheets(record), record.selected), "epochs", 0)
        run.log_file(record.folder / "trial.json", "scorecards.json")
        if record.selected is not None:
            self._register(record)
            if self.parent.saved_id and "reproduction_of" not in record.tags:
                self.parent.log_metrics(progress(load_records(self.study), record, policy))
        self.client.set_terminated(run.id, STATUS[record.state])

    def _register(self, record: TrialRecord) -> str:
        """The model version of the trial's selected checkpoint, made where there is none; empty
        where its file is gone.

        An alias names one version, so that each trial has a candidate of its own.
        """
        run, folder = self.run_of(record), f"checkpoint-{record.selected:06d}"
        known = run.saved_field("versions")
        if folder not in known:
            card = next(card for card in record.scorecards if card.epoch == record.selected)
            if not card.checkpoint.is_file():
                return ""
            self.client.log_artifact(run.id, str(card.checkpoint), folder)
            self._name_model()
            version = self.client.create_model_version(
                self.study.name,
                source=f"{self.client.get_run(run.id).info.artifact_uri}/{folder}",
                run_id=run.id,
                tags={"epoch": str(record.selected), "trial": str(record.number)},
                description=in_markdown(
                    f"trial {record.number}, {card.label}, {format_comparison_value(card)} overall"
                ),
            ).version
            known = {**known, folder: str(version)}
            run.save_state(versions=known)
        run.set_tags({"selected_epoch": str(record.selected)})
        candidate = f"candidate-{record.name.split(' ', 1)[1].replace(' ', '-')}"
        self.client.set_registered_model_alias(self.study.name, candidate, known[folder])
        return str(known[folder])

    def _name_model(self) -> None:
        """The study's registered model; another worker may make it at this moment."""
        try:
            self.client.create_registered_model(self.study.name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise


def _note(record: TrialRecord, findings: str) -> str:
    """A trial in a few words."""
    settings = ", ".join(code_in_markdown(f"{key}={value}") for key, value in record.params.items())
    kept = f"Epoch {record.selected} is kept." if record.selected is not None else ""
    reason = in_markdown(record.reason)
    ending = f"{record.state}: {reason}" if reason else record.state
    told = "\n".join(map(in_markdown, findings.split("\n")))
    return "\n\n".join(part for part in (settings, f"{kept} It is {ending}.", told) if part)


def _params(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, less what was searched: that is the parent run's."""
    return flatten({name: value for name, value in settings.items() if name != "search"})


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
