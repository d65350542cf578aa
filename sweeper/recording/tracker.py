"""MLflow as a mirror of the local records: what is missing there is logged, again and again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from mlflow.entities import Metric

from evaluate.choice.diagnosis import describe, diagnose
from evaluate.config import PolicyConfig
from evaluate.tracking import Run, Store, flatten, score_metrics
from sweeper.recording.background import Background
from sweeper.recording.record import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    Record,
    ScoredEpoch,
    load_record,
)

STATUS = {COMPLETE: "FINISHED", STOPPED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}


class Tracker(Store):
    """Logs a study: a parent run, and a run for each trial.

    In the background: training does not wait for a server, still less for one that is away.

    Args:
        root: where the embedded store is, unless MLFLOW_TRACKING_URI names another.
        study: the folder of the study.
    """

    def __init__(self, root: Path, study: Path) -> None:
        super().__init__(root, study.name)
        self.study = study
        self.parent = Run(self, study / "mlflow.json", f"sweep {study.name}")
        self._about: tuple[dict[str, str], dict[str, str], str] | None = None
        self._background = Background()
        self._behind: set[Path] = set()  # folders of trials that wait to be mirrored

    def begin(self, params: dict[str, str], tags: dict[str, str], config: str) -> None:
        """The parent run of the sweep."""
        self._about = (params, {**tags, "study": self.study.name}, config)
        self._background.do(self._begin_if_there)

    def catch_up(self) -> None:
        """Returns when everything is logged, or has failed to be."""
        self._background.finish()

    def _begin_if_there(self) -> None:
        with self.forgiving():
            self._begin()

    def _begin(self) -> None:
        if not self._about:
            return
        run, (params, tags, config) = self.parent, self._about
        with FileLock(self.study / "mlflow.lock"):  # another worker may begin it just now
            run.begin(tags)
            run.resume()
            run.once("params", lambda: run.log_params(params))
            run.once("config", lambda: run.log_text(config, "config.yaml"))

    def mirror(self, record: Record, policy: PolicyConfig) -> None:
        """Logs whatever the run of a trial has not got yet, as its record says on disk."""
        if record.folder not in self._behind:
            self._behind.add(record.folder)
            self._background.do(partial(self._mirror, record.folder, policy))

    def _mirror(self, folder: Path, policy: PolicyConfig) -> None:
        self._behind.remove(folder)
        record = load_record(folder)
        with self.forgiving():
            run = self.run_of(record)
            tags = {**record.tags, "study": record.study, "trial": str(record.number)}
            apart = "reproduction_of" in tags and not self.parent.id_now
            run.begin(tags, None if apart else self.parent)
            if not record.finished and record.state != INTERRUPTED:
                run.resume()
            run.once("params", lambda: run.log_params(_params(record.settings)))
            run.once("config", lambda: run.log_text(_yaml(record.settings), "config.yaml"))
            run.once("overrides", lambda: run.log_text(_yaml(record.overrides), "overrides.yaml"))
            for epoch in record.epochs:
                number = epoch.scorecard.epoch
                run.once(f"scores {number}", partial(run.log_metrics, metrics(epoch)))
                run.once(f"sheet {number}", partial(run.log_sheet, record.sheet(number), number))
            if record.state in STATUS:
                run.once(f"end {record.state}", lambda: self._end(run, record, policy))

    def run_of(self, record: Record) -> Run:
        """The run of a trial."""
        return Run(self, record.folder / "mlflow.json", record.name)

    def conclude(self, winner: Record | None, files: list[Path], tags: dict[str, str]) -> None:
        """Ends the parent run with the study's files, and names the champion."""
        self._background.do(partial(self._conclude, winner, files, tags))
        self.catch_up()

    def _conclude(self, winner: Record | None, files: list[Path], tags: dict[str, str]) -> None:
        with self.forgiving():
            self._begin()  # again, in case the store was away then
            run = self.parent
            for file in files:
                self.client.log_artifact(run.id, str(file))
            run.set_tags(tags)
            self.client.set_terminated(run.id, "FINISHED")
            if winner is not None:
                version = self._register(winner)
                self.client.set_registered_model_alias(self.study.name, "champion", version)

    def interrupt(self) -> None:
        """Ends the parent run as killed; the same command takes it up again."""
        self._background.do(self._interrupt)
        self.catch_up()

    def _interrupt(self) -> None:
        with self.forgiving():
            if self.parent.id_now:
                self.client.set_terminated(self.parent.id, "KILLED")

    def _end(self, run: Run, record: Record, policy: PolicyConfig) -> None:
        run.set_tags({"state": record.state, "reason": record.reason})
        if record.scorecards:
            run.set_tags({"diagnosis": describe(diagnose(record.scorecards, policy))})
        run.log_file(record.folder / "trial.json", "scorecards.json")
        if record.selected is not None:
            self._register(record)
        self.client.set_terminated(run.id, STATUS[record.state])

    def _register(self, record: Record) -> str:
        """The model version of the trial's selected checkpoint, made where there is none."""
        run, folder = self.run_of(record), f"checkpoint-{record.selected:06d}"
        known = run.recall("versions")
        if folder in known:
            return str(known[folder])
        card = next(card for card in record.scorecards if card.epoch == record.selected)
        self.client.log_artifact(run.id, str(card.checkpoint), folder)
        if not self.client.search_registered_models(f"name = '{self.study.name}'"):
            self.client.create_registered_model(self.study.name)
        version = self.client.create_model_version(
            self.study.name,
            source=f"{self.client.get_run(run.id).info.artifact_uri}/{folder}",
            run_id=run.id,
            tags={"epoch": str(record.selected), "trial": str(record.number)},
        ).version
        run.remember(versions={**known, folder: str(version)})
        run.set_tags({"selected_epoch": str(record.selected)})
        return str(version)


def metrics(epoch: ScoredEpoch) -> list[Metric]:
    """All the figures of an epoch, with the epoch as their step."""
    figures = {
        "train/loss": epoch.train_loss,
        "train/lr": epoch.lr,
        "system/seconds_training": epoch.seconds_training,
        "system/seconds_scoring": epoch.seconds_scoring,
    }
    step = epoch.scorecard.epoch
    own = [Metric(name, value, epoch.time, step) for name, value in figures.items()]
    return score_metrics(epoch.scorecard, epoch.time) + own


def _params(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, less what was searched: that is the parent run's."""
    return flatten({name: value for name, value in settings.items() if name != "search"})


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
