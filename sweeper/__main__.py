"""`python -m sweeper` runs one trial; with `-m`, a search. Settings: conf/sweep.yaml."""

from __future__ import annotations

import signal

from sweeper.config import SweepConfig, check_search, check_sweep
from sweeper.search.conditional_params import is_active
from train.cli.app import run

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # shuts down as cleanly as Ctrl-C
    main = "sweeper.execution.single_trial:run"
    run("sweep", SweepConfig, check_sweep, main, is_active, check_search)
