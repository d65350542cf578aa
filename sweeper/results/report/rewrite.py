"""Writes the report of a study anew, as `python -m sweeper.report` does."""

from __future__ import annotations

from pathlib import Path

from sweeper.config import ReportConfig
from sweeper.recording.record import load_records, no_study
from sweeper.recording.tracker import Tracker
from sweeper.results.ranking import rank_trials
from sweeper.results.report.page import policy_of, write_report
from train.config import ConfigError


def main(config: ReportConfig) -> None:
    """Writes report.html into the study's folder and logs it to the study's run, if it has one.

    Raises:
        ConfigError: there is no such study (naming the nearest), or no trial in it.
    """
    study = Path(config.root) / "studies" / config.study
    if not study.is_dir():
        raise no_study(study)
    tracker = Tracker(Path(config.root), study)
    records = load_records(study)
    if not records:
        raise ConfigError(f"study: {config.study} has no trial yet")
    policy = policy_of(study, records)
    ranked = rank_trials(records, policy, lambda record: tracker.run_of(record).id_now)
    file = write_report(study, ranked, policy)
    if run_id := tracker.parent.id_now:
        with tracker.forgiving():
            tracker.client.log_artifact(run_id, str(file))
    print(f"the report, to open in a browser: {file}")
