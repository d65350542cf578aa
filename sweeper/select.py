"""`python -m sweeper.select study=NAME policy=RULE`: selects again from what a study has scored."""

from __future__ import annotations

from sweeper.config import SelectConfig, check_select
from train.cli.app import run

if __name__ == "__main__":
    run("select", SelectConfig, check_select, "sweeper.commands.select:main")
