"""`python -m sweeper.report study=NAME`: writes a study's report, one page for any browser."""

from __future__ import annotations

from sweeper.config import ReportConfig, check_report
from train.cli.app import run

if __name__ == "__main__":
    run("report", ReportConfig, check_report, "sweeper.commands.report:main")
