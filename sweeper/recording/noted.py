"""What MLflow's tags say of a run of ours: text that anybody may have written, checked."""

from __future__ import annotations

import re

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from sweeper.config import MOST_TRIALS, STUDY_NAME
from train.config import ConfigError
from train.ranges import shown

RUN_ID = re.compile(r"[0-9a-f]{32}")
TRIAL = re.compile(rf"[0-9]{{1,{len(str(MOST_TRIALS))}}}")
