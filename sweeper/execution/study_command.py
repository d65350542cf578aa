"""The base class of the commands that train trials: their context, MLflow, and finalization."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from evaluate.verdict_file import has_final
from sweeper.config import SweepConfig
from sweeper.execution.context import StudyContext, load_context, origin_tags
from sweeper.execution.finalize import finalize_study
from sweeper.final.hold import hold_final
from sweeper.stop_request import USER_REQUEST, stop_reason
from sweeper.study.storage import outage_as_config_error
from sweeper.study_folder import study_folder
from sweeper.tracking.mlflow_mirror import MlflowMirror
from train.system.outage import Outage

INTERRUPTED = 130  # exit code after Ctrl-C


class StudyCommand:
    """A command on one study. Loaded models are kept when it is retried after an outage.

    Args:
        config: settings of the study; its name may be null until the study begins.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self._mirror: MlflowMirror | None = None

    @cached_property
    def context(self) -> StudyContext:
        """The base, data set and scorer, which are loaded when they are first needed."""
        return load_context(self.config)

    def check_folder(self) -> None:
        """Checks that nothing in the study's folder leads out of it, before models are loaded.

        Raises:
            ConfigError: see `study_folder`.
        """
        if self.config.study.name is not None:
            study_folder(Path(self.config.study.root), self.config.study.name, "study.name")

    def mirror(self, study: Path) -> MlflowMirror:
        """The MLflow mirror of the study with this folder."""
        if self._mirror is None or self._mirror.study != study:
            self._mirror = MlflowMirror(Path(self.config.study.root), study)
        return self._mirror

    def finalize(self, study: Path) -> None:
        """Holds the final, ranks the study's trials, and makes the best checkpoint its result."""
        hold_final(study, self.context.scorer, self.config)
        finalize_study(
            study,
            self.config.selection,
            self.mirror(study),
            origin_tags(self.context),
            self.context.scorer.probe_set.to_yaml(),
            self.config.study.storage,
            has_final(self.config.final, self.config.selection),
        )


@contextmanager
def clean_exit(mirror: MlflowMirror) -> Iterator[None]:
    """Context manager: Ctrl-C ends the process with one line and exit code 130.

    The interruption is logged to MLflow. At the normal end, all logging is completed.
    """
    try:
        with outage_as_config_error():
            yield
        mirror.flush()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        mirror.interrupt()
        print("interrupted; run the same command again to continue the study", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Outage:
        mirror.interrupt()
        raise


def raise_if_stopped() -> None:
    """Raises KeyboardInterrupt if a person requested a stop.

    A study whose time is up is finalized instead.
    """
    if stop_reason() == USER_REQUEST:
        raise KeyboardInterrupt
