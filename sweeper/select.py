"""`python -m sweeper.select study=NAME selection=RULE`: repeats the selection on logged scores."""

from __future__ import annotations

from sweeper.config import SelectConfig, check_select
from train.cli.app import run

if __name__ == "__main__":
    run("select", SelectConfig, check_select, "sweeper.commands.select:main")
