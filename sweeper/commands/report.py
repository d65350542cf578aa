"""Rewrites the report of a study: the command `python -m sweeper.report`."""

from __future__ import annotations

import logging
from pathlib import Path

from evaluate.tracking.store_address import Address, run_id_in
from sweeper.config import ReportConfig
from sweeper.final.load import decided, load_verdict
from sweeper.results.checkpoint_files import REPORT_FILE
from sweeper.results.missing_trials import describe_missing
from sweeper.results.ranking import rank_trials
from sweeper.results.report.page import policy_of, write_report
from sweeper.study_folder import study_folder
from sweeper.tracking.trial_record import load_records, study_not_found
from train.errors import CheckpointError, ConfigError
from train.text.terminal import print_lines

log = logging.getLogger(__name__)


def main(config: ReportConfig) -> None:
    """Writes report.html into the study's folder and logs it to the study's run, if any.

    Raises:
        ConfigError: the study does not exist (suggesting a similar name), or has no trial.
    """
    root = Path(config.root)
    study = study_folder(root, config.study)
    if not study.is_dir():
        raise study_not_found(study)
    address = Address(root)
    records = load_records(study)
    if not records:
        raise ConfigError(f"study: {config.study} has no trial yet")
    policy = policy_of(study, records)
    verdict = load_verdict(study, records, policy) if decided(study) else None
    ranked = rank_trials(records, policy, lambda record: run_id_in(address, record.folder), verdict)
    try:
        file = write_report(study, ranked, policy, storage=config.storage)
    except CheckpointError as error:  # the study's folder may be read-only
        fallback = Path(f"{study.name}-{REPORT_FILE}")
        file = write_report(study, ranked, policy, fallback, config.storage)
        log.warning(f"{error}; the report is written to the current folder instead")
    if missing := describe_missing(study):
        print_lines(missing)
    print_lines(f"the report, to open in a browser: {file}")
    if run_id := run_id_in(address, study):
        from evaluate.tracking.mlflow_store import (
            MlflowStore,  # imported here: importing MLflow is slow, and the page exists before
        )

        store = MlflowStore(root, study.name)
        with store.tolerate_outage():
            store.add_file(run_id, study.name, file)
