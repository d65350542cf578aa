"""The end of a study: its trials are ranked, and the best one becomes its result."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluate.config import PolicyConfig
from evaluate.selection.diagnosis import diagnose
from evaluate.tracking.mlflow_store import NOTE_TAG
from evaluate.verdict_file import VERDICT_FILE, mlflow_tags, summary
from sweeper.final.load import load_verdict
from sweeper.results.checkpoint_files import (
    OVERVIEW_FILE,
    POLICY_KEY,
    PROBES_FILE,
    RESULT_FILE,
    SELECTED_FILE,
    existing_first,
    find_weights,
)
from sweeper.results.missing_trials import MISSING_KEY, describe_missing, missing_trials
from sweeper.results.mlflow_description import describe_study
from sweeper.results.overview_chart import draw_overview
from sweeper.results.ranking import RankedTrial, explain, pareto_numbers, rank_trials
from sweeper.results.report.page import write_report
from sweeper.results.summary_table import print_selection, print_table
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import RUNNING, load_records
from train.files.atomic_write import write_atomically, write_text_atomically
from train.text.terminal import print_lines


def finalize_study(
    study: Path,
    policy: PolicyConfig,
    mirror: MlflowMirror,
    tags: dict[str, str],
    probes: str,
    storage: str | None,
    with_final: bool,
) -> None:
    """Ranks the trials, writes and logs the study's files, and prints the table.

    Args:
        with_final: whether the study's final decides, if it has had one.
        tags: of the sweep's run in MLflow.
        probes: the probe set, in YAML.
        storage: the database of the study; None: the journal in its folder.
    """
    # other workers run the trials that are still running
    records = [record for record in load_records(study) if record.state != RUNNING]
    if not records:
        print_lines("no trial has ended yet")
        return
    for record in records:
        if record.settings:
            mirror.mirror(record, policy)  # logs whatever an unreachable server has missed
    mirror.flush()
    verdict = load_verdict(study, records, policy) if with_final else None
    ranked = rank_trials(records, policy, lambda record: mirror.run_for(record).saved_id, verdict)
    ranked = existing_first(study, ranked)
    write_text_atomically(study / PROBES_FILE, probes)
    print_table(ranked)
    if missing := describe_missing(study):
        print_lines(missing)
    promote(study, ranked, policy, mirror, tags, storage)
    print_selection(study, ranked, policy)


def promote(
    study: Path,
    ranked: list[RankedTrial],
    policy: PolicyConfig,
    mirror: MlflowMirror,
    tags: dict[str, str],
    storage: str | None = None,
) -> None:
    """Makes the best trial the study's result: writes its files, and sets MLflow's champion.

    There is no result if that trial's checkpoint is missing.

    Args:
        ranked: all trials, best first.
        tags: of the sweep's run in MLflow.
        storage: the database of the study; None: the journal in its folder.
    """
    content = find_weights(study, ranked[0])
    best = ranked[0] if content is not None else None
    by_number = sorted(ranked, key=lambda entry: entry.record.number)
    files = [_write_json(study, by_number, best, ranked, policy), study / PROBES_FILE]
    tags = {**tags, "state": "complete", "policy": policy.rule}
    if best and content is not None:
        assert best.selection
        card = best.selection.scorecard
        overview = study / OVERVIEW_FILE
        draw_overview(overview, [e.record for e in by_number], best.record, card, policy)
        write_atomically(study / SELECTED_FILE, content)
        files += [study / SELECTED_FILE, overview, study / VERDICT_FILE]
        tags |= {"best_run_id": best.run_id, "best_trial": str(best.record.number),
                 "best_epoch": str(card.epoch), "best_strength": f"{card.strength:g}",
                 "best_averaged": str(card.averaged),
                 "reasons": " ".join(explain(ranked))}  # fmt: skip
        if verdict := best.selection.verdict:
            tags |= mlflow_tags(verdict, policy)
        tags[NOTE_TAG] = describe_study(ranked)
        best.record.end(best.record.state, best.record.reason, card.epoch)
    files.append(write_report(study, ranked, policy, storage=storage))
    # a study that is still running has no probe set yet
    winner = (best.record, best.selection.scorecard) if best and best.selection else None
    mirror.finalize(winner, [f for f in files if f.exists()], tags)


def _write_json(
    study: Path,
    entries: list[RankedTrial],
    best: RankedTrial | None,
    ranked: list[RankedTrial],
    policy: PolicyConfig,
) -> Path:
    content: dict[str, Any] = {"study": study.name, "policy": policy.rule,
                               POLICY_KEY: asdict(policy), "run_id": None}  # fmt: skip
    if best and best.selection:
        card, reported = best.selection.scorecard, best.selection.reported
        verdict = best.selection.verdict
        content |= {
            "run_id": best.run_id,
            "trial": best.record.number,
            "epoch": card.epoch,
            "strength": card.strength,
            "averaged": card.averaged,
            "checkpoint": SELECTED_FILE,
            "feasible": best.selection.feasible,
            "fidelity": best.selection.fidelity,
            "scores": {name: estimate.value for name, estimate in reported.scores.items()},
            "intervals": {name: [e.low, e.high] for name, e in reported.scores.items()},
            "verdict": summary(verdict, policy) if verdict else None,
            "reasons": explain(ranked),
            "notes": [*best.selection.reasons, *card.notes],
        }
    content["front"] = pareto_numbers(ranked)
    content[MISSING_KEY] = missing_trials(study)
    content["trials"] = [_trial_json(entry, policy) for entry in entries]
    file = study / RESULT_FILE
    write_atomically(file, json.dumps(content, indent=1).encode())
    return file


def _trial_json(entry: RankedTrial, policy: PolicyConfig) -> dict[str, Any]:
    record, selection = entry.record, entry.selection
    return {
        "number": record.number,
        "params": record.params,
        "state": record.state,
        "reason": record.reason,
        "epochs": len(record.epochs),
        "run_id": entry.run_id,
        "best_epoch": selection.scorecard.epoch if selection else None,
        "feasible": selection.feasible if selection else False,
        "fidelity": selection.fidelity if selection else None,
        "diagnosis": [str(f) for f in diagnose(record.scorecards, policy)]
        if record.scorecards
        else [],
        "seconds": round(sum(epoch.seconds for epoch in record.epochs), 1),
    }
