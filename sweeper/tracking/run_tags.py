"""Parses the MLflow tags of a run, which anybody may have written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from sweeper.config import MAX_TRIALS
from sweeper.study_folder import NAME
from train.config.ranges import format_value
from train.errors import ConfigError

RUN_ID = re.compile(r"[0-9a-f]{32}")
TRIAL = re.compile(rf"[0-9]{{1,{len(str(MAX_TRIALS))}}}")
TAG_PATTERNS = {"study": NAME, "trial": TRIAL, "best_run_id": RUN_ID, MLFLOW_PARENT_RUN_ID: RUN_ID}


@dataclass(frozen=True)
class RunTags:
    """The tags that identify a run.

    Attributes:
        study: name of its study; empty if it belongs to none.
        trial: trial number; None for the run of a sweep.
        best_run_id: for a sweep, the run of its best trial; empty if there is none (yet).
        parent_run_id: the sweep's run; empty if it has none.
    """

    study: str
    trial: int | None
    best_run_id: str
    parent_run_id: str


def parse_run_tags(run: Run) -> RunTags:
    """Parses the tags that identify a run.

    Raises:
        ConfigError: a tag has a value that this program does not write.
    """
    tags = {name: str(run.data.tags.get(name) or "") for name in TAG_PATTERNS}
    for name, value in tags.items():
        if value and not TAG_PATTERNS[name].fullmatch(value):
            raise ConfigError(
                f"run_id: the tag {name} of run {run.info.run_id} is {format_value(value)}, which "
                "this program does not write"
            )
    trial = int(tags["trial"]) if tags["trial"] else None
    return RunTags(tags["study"], trial, tags["best_run_id"], tags[MLFLOW_PARENT_RUN_ID])
