"""What a study comes to: the pick and why, the table, the files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluate.config import PolicyConfig
from evaluate.selection.diagnosis import diagnose
from evaluate.tracking.mlflow_store import NOTE
from sweeper.results.checkpoint_files import OVERVIEW, PICK, POLICY, PROBES, RESULT, find_weights
from sweeper.results.missing_trials import MISSING, missing_trials
from sweeper.results.mlflow_description import describe_study
from sweeper.results.overview_picture import draw_overview
from sweeper.results.ranking import RankedTrial, explain, numbers_of_front
from sweeper.results.report.page import write_report
from sweeper.tracking.mlflow_mirror import MlflowMirror
from train.files.atomic_write import write_atomically


def promote(
    study: Path,
    ranked: list[RankedTrial],
    policy: PolicyConfig,
    tracker: MlflowMirror,
    tags: dict[str, str],
    storage: str | None = None,
) -> None:
    """Makes the first of the trials the study's result: its files, and MLflow's champion; none,
    where its checkpoint is gone.

    Args:
        storage: where Optuna has the study; None: in its folder.
    """
    content = find_weights(study, ranked[0])
    best = ranked[0] if content is not None else None
    by_number = sorted(ranked, key=lambda entry: entry.record.number)
    files = [_write_json(study, by_number, best, ranked, policy), study / PROBES]
    tags = {**tags, "state": "complete", "policy": policy.rule}
    if best and content is not None:
        assert best.selection
        card = best.selection.scorecard
        overview = study / OVERVIEW
        draw_overview(overview, [e.record for e in by_number], best.record, card, policy)
        write_atomically(study / PICK, content)
        files += [study / PICK, overview]
        tags |= {"best_run_id": best.run_id, "best_trial": str(best.record.number),
                 "best_epoch": str(card.epoch), "reasons": " ".join(explain(ranked))}  # fmt: skip
        tags[NOTE] = describe_study(ranked)
        best.record.end(best.record.state, best.record.reason, card.epoch)
    files.append(write_report(study, ranked, policy, storage=storage))
    tracker.conclude(best.record if best else None, files, tags)


def _write_json(
    study: Path,
    entries: list[RankedTrial],
    best: RankedTrial | None,
    ranked: list[RankedTrial],
    policy: PolicyConfig,
) -> Path:
    content: dict[str, Any] = {"study": study.name, "policy": policy.rule,
                               POLICY: asdict(policy), "run_id": None}  # fmt: skip
    if best and best.selection:
        card = best.selection.scorecard
        content |= {
            "run_id": best.run_id,
            "trial": best.record.number,
            "epoch": card.epoch,
            "checkpoint": PICK,
            "feasible": best.selection.feasible,
            "fidelity": best.selection.fidelity,
            "scores": {name: estimate.value for name, estimate in card.scores.items()},
            "intervals": {name: [e.low, e.high] for name, e in card.scores.items()},
            "reasons": explain(ranked),
            "notes": [*best.selection.reasons, *card.notes],
        }
    content["front"] = numbers_of_front(ranked)
    content[MISSING] = missing_trials(study)
    content["trials"] = [_trial_json(entry, policy) for entry in entries]
    file = study / RESULT
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
