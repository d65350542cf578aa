"""Selects again from what a study has scored, as `python -m sweeper.select` does."""

from __future__ import annotations

from pathlib import Path

from evaluate.choice.merit import FIDELITIES, MEMORY
from evaluate.choice.policy import check_scores
from evaluate.store_address import Address, run_id_in
from sweeper.config import SelectConfig
from sweeper.recording.record import Record, load_records, no_study
from sweeper.results.files import find_weights, gone
from sweeper.results.missing import words_of_missing
from sweeper.results.printing import say, show
from sweeper.results.ranking import Entry, rank_trials
from sweeper.study_folder import study_folder
from train.config import ConfigError
from train.terminal import print_lines


def main(config: SelectConfig) -> None:
    """Prints what the policy keeps; with `apply` makes it the study's result. Loads no model."""
    root = Path(config.root)
    study, address = study_folder(root, config.study), Address(root)
    records = [r for r in find_records(study) if r.scorecards]
    if not records:
        raise ConfigError(f"study: {config.study} has no scored epoch")
    check_scores(config.policy, {n for r in records for c in r.scorecards for n in c.scores})
    ranked = rank_trials(records, config.policy, lambda r: run_id_in(address, r.folder))
    show(ranked)
    if lost := words_of_missing(study):
        print_lines(lost)
    if config.policy.rule == "pareto":
        _show_front(ranked)
    if config.apply:
        if not study.is_dir():
            raise ConfigError(f"apply: the files of {config.study} are not in {study.parent}")
        if find_weights(study, ranked[0]) is None:
            raise ConfigError(gone(ranked[0]))
        _apply(study, ranked, config)
        return
    best = ranked[0]
    if best.selection:
        print_lines(
            *best.selection.reasons,
            f"the LoRA to keep: {best.selection.scorecard.checkpoint}",
            "apply=true makes it the study's best.safetensors and MLflow's champion",
        )


def _apply(study: Path, ranked: list[Entry], config: SelectConfig) -> None:
    # imported here: MLflow and the report's plots take seconds, and most selections need neither
    from sweeper.recording.tracker import Tracker
    from sweeper.results.result import keep

    keep(study, ranked, config.policy, Tracker(Path(config.root), study), {}, config.storage)
    say(study, ranked, config.policy)


def find_records(study: Path) -> list[Record]:
    """The records of a study: from its folder, or else from MLflow.

    Raises:
        ConfigError: neither has it.
    """
    if study.is_dir():
        return load_records(study)
    from sweeper.results.logged import logged_records  # imports MLflow

    if fetched := logged_records(study):
        return fetched
    raise no_study(study)


def _show_front(ranked: list[Entry]) -> None:
    """The checkpoints that none beats in their trial, as lines."""
    for entry in ranked:
        for card in entry.selection.front if entry.selection else []:
            names = [name for name in (*FIDELITIES, MEMORY) if name in card.scores]
            scores = "  ".join(f"{name} {card.scores[name].value:.2f}" for name in names)
            print_lines(f"trial {entry.record.number}  {card.label}  {scores}  {card.checkpoint}")
