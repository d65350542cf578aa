"""The records of a study as MLflow has them, for where its folder is not at hand."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException

from sweeper.recording.record import Record, read_record, trial_folder
from sweeper.recording.saved import whole
from sweeper.recording.tracker import Tracker
from train.gate import read_bytes

log = logging.getLogger(__name__)


def logged_records(study: Path) -> list[Record]:
    """The records that MLflow has, by trial; none where it is away, which is said.

    Args:
        study: where the study's folder would be.
    """
    tracker = Tracker(study.parent.parent, study)
    with tracker.forgiving():
        return _fetch(study, tracker)
    return []


def _fetch(study: Path, tracker: Tracker) -> list[Record]:
    experiment = tracker.client.get_experiment_by_name(study.name)
    if experiment is None:
        return []
    records: dict[int, Record] = {}
    for found in tracker.client.search_runs([experiment.experiment_id], "tags.trial != ''"):
        if "reproduction_of" in found.data.tags:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = tracker.client.download_artifacts(
                    found.info.run_id, "scorecards.json", folder
                )
            except (MlflowException, OSError):
                continue  # it has not come to its end
            try:
                content = read_bytes(Path(file))
                number = whole(found.data.tags["trial"])
                # the latest comes first: a trial whose folder was lost has been trained again
                records.setdefault(number, read_record(content, trial_folder(study, number)))
            except ValueError as error:
                log.warning(f"run {found.info.run_id} is left out: its record is damaged ({error})")
    return [records[number] for number in sorted(records)]
