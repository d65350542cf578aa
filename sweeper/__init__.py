"""Runs studies: searches, trains, records, selects, reports and reproduces."""

import os
from typing import TYPE_CHECKING

from train.lazy_names import lazy_names

# MLflow reads these when it is imported, so they are set first. A dead server must not hold up
# training: after one retry, the local record has to do.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

if TYPE_CHECKING:
    from sweeper.library import StudyResult, load_result, run_study
    from sweeper.tracking.trial_record import load_records

__all__ = ["StudyResult", "load_records", "load_result", "run_study"]
__getattr__ = lazy_names(
    __name__,
    {
        "StudyResult": "sweeper.library",
        "load_records": "sweeper.tracking.trial_record",
        "load_result": "sweeper.library",
        "run_study": "sweeper.library",
    },
)
