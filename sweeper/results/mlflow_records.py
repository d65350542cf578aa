"""Reads the records of a study from MLflow, for machines that do not have its folder."""

from __future__ import annotations

import logging
from pathlib import Path

from evaluate.tracking.artifacts import artifact
from evaluate.tracking.store_address import DATABASE
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.run_tags import parse_run_tags
from sweeper.tracking.trial_record import TrialRecord, read_record, trial_folder

log = logging.getLogger(__name__)


def logged_records(study: Path) -> list[TrialRecord]:
    """The records that MLflow has, sorted by trial; none, with a warning, if it is unreachable.

    Args:
        study: the path that the study's folder would have.
    """
    tracker = MlflowMirror(study.parent.parent, study)
    if tracker.embedded and not (tracker.root / DATABASE).is_file():
        return []
    with tracker.tolerate_outage():
        return _fetch(study, tracker)
    return []


def _fetch(study: Path, tracker: MlflowMirror) -> list[TrialRecord]:
    client = tracker.existing()
    experiment = client.get_experiment_by_name(study.name)
    if experiment is None:
        return []
    records: dict[int, TrialRecord] = {}
    for run in client.search_runs([experiment.experiment_id], "tags.trial != ''"):
        if "reproduction_of" in run.data.tags:
            continue
        if (text := artifact(tracker, client, run, "scorecards.json")) is None:
            continue  # the trial has not ended
        try:
            if (number := parse_run_tags(run).trial) is None:
                continue
            # the latest run comes first: a trial whose folder was lost may have been retrained
            records.setdefault(number, read_record(text, trial_folder(study, number)))
        except ValueError as error:
            log.warning(f"run {run.info.run_id} is left out: its record is damaged ({error})")
    return [records[number] for number in sorted(records)]
