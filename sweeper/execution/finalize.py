"""The end of a study: its trials are ranked, and the first of them becomes its result."""

from __future__ import annotations

from pathlib import Path

from evaluate.config import PolicyConfig
from sweeper.execution.context import StudyContext, origin
from sweeper.execution.promote import promote
from sweeper.results.checkpoint_files import PROBES, those_with_files_first
from sweeper.results.missing_trials import words_of_missing
from sweeper.results.ranking import rank_trials
from sweeper.results.summary_table import say, show
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import RUNNING, load_records
from train.files.atomic_write import write_text_atomically
from train.text.terminal import print_lines


def finalize_study(
    study: Path,
    policy: PolicyConfig,
    tracker: MlflowMirror,
    parts: StudyContext,
    storage: str | None,
) -> None:
    """Selects over all trials, writes the study's files, logs them and prints the table.

    Args:
        storage: where Optuna has the study; None: in its folder.
    """
    # what another worker is at is its own to write
    records = [record for record in load_records(study) if record.state != RUNNING]
    if not records:
        print("no trial has ended yet")
        return
    for record in records:
        if record.settings:
            tracker.mirror(record, policy)  # what a server that was away has missed
    tracker.catch_up()
    ranked = rank_trials(records, policy, lambda record: tracker.run_of(record).saved_id)
    ranked = those_with_files_first(study, ranked)
    write_text_atomically(study / PROBES, parts.scorer.probe_set.to_yaml())
    show(ranked)
    if lost := words_of_missing(study):
        print_lines(lost)
    promote(study, ranked, policy, tracker, origin(parts), storage)
    say(study, ranked, policy)
