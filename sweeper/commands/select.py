"""Re-runs the selection on a study's scores: the command `python -m sweeper.select`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from evaluate.console.tables import table_console
from evaluate.selection.objective import FIDELITIES, MEMORY
from evaluate.selection.policy import check_scores
from evaluate.tracking.store_address import Address, run_id_in
from sweeper.config import SelectConfig
from sweeper.final.course import course
from sweeper.final.load import load_verdict
from sweeper.results.checkpoint_files import (
    RESULT_FILE,
    SELECTED_FILE,
    find_weights,
    missing_reason,
)
from sweeper.results.missing_trials import describe_missing
from sweeper.results.ranking import RankedTrial, explain, rank_trials
from sweeper.results.summary_table import WIDTH, print_selection, print_table
from sweeper.study_folder import study_folder
from sweeper.tracking.trial_record import TrialRecord, load_records, study_not_found
from train.errors import ConfigError
from train.files.untrusted import read_json
from train.text.terminal import print_lines


class Applied(msgspec.Struct):
    """The selected checkpoint in a study's result.json."""

    trial: int
    epoch: int
    strength: float = 1.0
    averaged: int = 1


def main(config: SelectConfig) -> None:
    """Prints what the policy selects; `apply` makes it the study's result. Loads no model."""
    root = Path(config.root)
    study, address = study_folder(root, config.study), Address(root)
    records = [r for r in find_records(study) if r.scorecards]
    if not records:
        raise ConfigError(f"study: {config.study} has no scored epoch")
    check_scores(config.selection, {n for r in records for c in r.scorecards for n in c.scores})
    if not study.is_dir():
        print_lines("MLflow's records have no final, if there was one; the first scores decide")
    verdict = load_verdict(study, records, config.selection)
    ranked = rank_trials(records, config.selection, lambda r: run_id_in(address, r.folder), verdict)
    print_table(ranked)
    if missing := describe_missing(study):
        print_lines(missing)
    if config.selection.rule == "pareto":
        _show_front(ranked)
    if config.replay:
        if verdict is None:
            raise ConfigError(f"replay: {config.study} has no final that decides by this policy")
        table_console(WIDTH).print(course(verdict))
    if config.apply:
        if not study.is_dir():
            raise ConfigError(f"apply: the files of {config.study} are not in {study.parent}")
        if find_weights(study, ranked[0]) is None:
            raise ConfigError(missing_reason(ranked[0]))
        _apply(study, ranked, config)
        return
    best = ranked[0]
    if best.selection:
        card = best.selection.scorecard
        reasons = explain(ranked) if best.won else best.selection.reasons
        print_lines(*reasons, f"the LoRA to keep: {card.checkpoint}")
        selected = Applied(best.record.number, card.epoch, card.strength, card.averaged)
        if applied(study) == selected:
            print_lines(f"it is the study's {SELECTED_FILE} already")
        else:
            print_lines(f"apply=true makes it the study's {SELECTED_FILE} and MLflow's champion")


def applied(study: Path) -> Applied | None:
    """The checkpoint that is a study's result now; None if it has none."""
    try:
        return read_json(study / RESULT_FILE, Applied)
    except (OSError, ValueError):
        return None


def _apply(study: Path, ranked: list[RankedTrial], config: SelectConfig) -> None:
    # imported here: MLflow and the report's plots take seconds, and most selections need neither
    from sweeper.execution.finalize import promote
    from sweeper.tracking.mlflow_mirror import MlflowMirror

    promote(
        study, ranked, config.selection, MlflowMirror(Path(config.root), study), {}, config.storage
    )
    print_selection(study, ranked, config.selection)


def find_records(study: Path) -> list[TrialRecord]:
    """The records of a study, from its folder or else from MLflow.

    Raises:
        ConfigError: neither has the study.
    """
    if study.is_dir():
        return load_records(study)
    from sweeper.results.mlflow_records import logged_records  # imports MLflow

    if fetched := logged_records(study):
        return fetched
    raise study_not_found(study)


def _show_front(ranked: list[RankedTrial]) -> None:
    """Prints each trial's Pareto-optimal checkpoints, one per line."""
    for entry in ranked:
        for card in entry.selection.front if entry.selection else []:
            names = [name for name in (*FIDELITIES, MEMORY) if name in card.scores]
            scores = "  ".join(f"{name} {card.scores[name].value:.2f}" for name in names)
            print_lines(f"trial {entry.record.number}  {card.label}  {scores}  {card.checkpoint}")
