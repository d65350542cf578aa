"""`python -m sweeper.reproduce run_id=...`: retrains a logged run and compares the results."""

from __future__ import annotations

from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from train.cli.app import run

if __name__ == "__main__":
    run("reproduce", ReproduceConfig, check_reproduce, "sweeper.reproduction.reproduce:main")
