"""The end of a study: its trials are ranked, and the first of them becomes its result."""

from __future__ import annotations

from pathlib import Path

from evaluate.config import PolicyConfig
from sweeper.recording.record import RUNNING, load_records
from sweeper.recording.tracker import Tracker
from sweeper.results.files import PROBES, those_with_files_first
from sweeper.results.missing import words_of_missing
from sweeper.results.printing import say, show
from sweeper.results.ranking import rank_trials
from sweeper.results.result import keep
from sweeper.running.parts import Parts, origin
from train.terminal import print_lines
from train.weights_file import write_text_atomically


def conclude(
    study: Path, policy: PolicyConfig, tracker: Tracker, parts: Parts, storage: str | None
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
    ranked = rank_trials(records, policy, lambda record: tracker.run_of(record).id_now)
    ranked = those_with_files_first(study, ranked)
    write_text_atomically(study / PROBES, parts.scorer.probe_set.to_yaml())
    show(ranked)
    if lost := words_of_missing(study):
        print_lines(lost)
    keep(study, ranked, policy, tracker, origin(parts), storage)
    say(study, ranked, policy)
