"""Selects again from what a study has scored, as `python -m sweeper.select` does."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException

from evaluate.choice.merit import FIDELITIES, MEMORY
from evaluate.choice.policy import check_scores
from sweeper.config import SelectConfig
from sweeper.recording.record import Record, load_records, no_study, read_record, trial_folder
from sweeper.recording.tracker import Tracker
from sweeper.results.ranking import Entry, rank_trials
from sweeper.results.result import find_weights, gone, keep, say, show
from train.config import ConfigError

log = logging.getLogger(__name__)


def main(config: SelectConfig) -> None:
    """Prints what the policy keeps; with `apply` makes it the study's result. Loads no model."""
    study = Path(config.root) / "studies" / config.study
    tracker = Tracker(Path(config.root), study)
    records = [r for r in find_records(study, tracker) if r.scorecards]
    if not records:
        raise ConfigError(f"study: {config.study} has no scored epoch")
    check_scores(config.policy, {n for r in records for c in r.scorecards for n in c.scores})
    ranked = rank_trials(records, config.policy, lambda record: tracker.run_of(record).id_now)
    show(ranked)
    if config.policy.rule == "pareto":
        _show_front(ranked)
    if config.apply:
        if not study.is_dir():
            raise ConfigError(f"apply: the files of {config.study} are not in {study.parent}")
        if find_weights(study, ranked[0]) is None:
            raise ConfigError(gone(ranked[0]))
        keep(study, ranked, config.policy, tracker, {})
        say(study, ranked, config.policy)
        return
    best = ranked[0]
    if best.selection:
        print("\n".join(best.selection.reasons))
        print(f"the LoRA to keep: {best.selection.scorecard.checkpoint}")
        print("apply=true makes it the study's best.safetensors and MLflow's champion")


def find_records(study: Path, tracker: Tracker) -> list[Record]:
    """The records of a study: from its folder, or else from MLflow.

    Raises:
        ConfigError: neither has it.
    """
    if study.is_dir():
        return load_records(study)
    with tracker.forgiving():
        if fetched := _fetch(study, tracker):
            return fetched
    raise no_study(study)


def _fetch(study: Path, tracker: Tracker) -> list[Record]:
    """The records that MLflow has, by trial."""
    experiment = tracker.client.get_experiment_by_name(study.name)
    if experiment is None:
        return []
    records = []
    for found in tracker.client.search_runs([experiment.experiment_id], "tags.trial != ''"):
        if "reproduction_of" in found.data.tags:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = tracker.client.download_artifacts(
                    found.info.run_id, "scorecards.json", folder
                )
            except (MlflowException, OSError):
                continue  # it has not come to its end
            try:
                saved = json.loads(Path(file).read_bytes())
                number = int(found.data.tags["trial"])
                records.append(read_record(saved, trial_folder(study, number)))
            except ValueError as error:
                log.warning(f"run {found.info.run_id} is left out: its record is damaged ({error})")
    return sorted(records, key=lambda record: record.number)


def _show_front(ranked: list[Entry]) -> None:
    """The checkpoints that none beats in their trial, as lines."""
    for entry in ranked:
        for card in entry.selection.front if entry.selection else []:
            names = [name for name in (*FIDELITIES, MEMORY) if name in card.scores]
            scores = "  ".join(f"{name} {card.scores[name].value:.2f}" for name in names)
            print(f"trial {entry.record.number}  {card.label}  {scores}  {card.checkpoint}")
