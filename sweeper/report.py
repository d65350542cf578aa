"""`python -m sweeper.report study=NAME`: a study in one page, to open in any browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweeper.recording.record import load_records, no_study
from sweeper.recording.tracker import Tracker
from sweeper.results.ranking import rank_trials
from sweeper.results.report.page import policy_of, write_report
from train.command import run
from train.config import ConfigError


@dataclass
class ReportConfig:
    """conf/report.yaml."""

    study: str = ""
    root: str = "mlruns"


def check(config: ReportConfig) -> None:
    """Refuses a study that there is none of, naming the nearest."""
    study = _folder(config)
    if not config.study or not study.is_dir():
        raise no_study(study)


def main(config: ReportConfig) -> None:
    """Writes report.html into the study's folder and logs it to the study's run, if it has one."""
    study = _folder(config)
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


def _folder(config: ReportConfig) -> Path:
    return Path(config.root) / "studies" / config.study


if __name__ == "__main__":
    run("report", ReportConfig, check, main)
