"""What a study comes to: the pick and why, the table, the files."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluate.choice.diagnosis import diagnose
from evaluate.config import PolicyConfig
from evaluate.tracking import NOTE
from sweeper.recording.progress import short
from sweeper.recording.tracker import Tracker
from sweeper.results.description import describe_study
from sweeper.results.overview import draw_overview
from sweeper.results.ranking import (
    Entry,
    explain,
    front_of,
    last_word,
    varied,
)
from sweeper.results.report.page import POLICY, REPORT, RESULT, write_report
from train.checkpoint import CheckpointError, weights_hash, write_atomically

PICK = "best.safetensors"  # in a study's folder


def keep(
    study: Path,
    ranked: list[Entry],
    policy: PolicyConfig,
    tracker: Tracker,
    tags: dict[str, str],
) -> None:
    """Makes the first of the trials the study's result: its files, and MLflow's champion; none,
    where its checkpoint is gone."""
    content = find_weights(study, ranked[0])
    best = ranked[0] if content is not None else None
    by_number = sorted(ranked, key=lambda entry: entry.record.number)
    files = [_write_json(study, by_number, best, ranked, policy), study / "probes.yaml"]
    tags = {**tags, "state": "complete", "policy": policy.rule}
    if best and content is not None:
        assert best.selection
        card = best.selection.scorecard
        overview = study / "overview.png"
        draw_overview(overview, [e.record for e in by_number], best.record, card, policy)
        write_atomically(study / PICK, content)
        files += [study / PICK, overview]
        tags |= {"best_run_id": best.run_id, "best_trial": str(best.record.number),
                 "best_epoch": str(card.epoch), "reasons": " ".join(explain(ranked))}  # fmt: skip
        tags[NOTE] = describe_study(ranked)
        best.record.end(best.record.state, best.record.reason, card.epoch)
    files.append(write_report(study, ranked, policy))
    tracker.conclude(best.record if best else None, files, tags)


def find_weights(study: Path, entry: Entry) -> bytes | None:
    """The file of the checkpoint selected from a trial; None: there is none, it was deleted, or it
    no longer holds the weights that were scored."""
    if entry.selection is None:
        return None
    card = entry.selection.scorecard
    wanted = {one.weights for one in entry.record.epochs if one.scorecard.epoch == card.epoch}
    for file in (card.checkpoint, study / PICK):  # it may have been the pick before
        with suppress(CheckpointError):
            if weights_hash(file) in wanted:
                return file.read_bytes()
    return None


def gone(entry: Entry) -> str:
    """That a trial's checkpoint was deleted or damaged, and what brings it back."""
    assert entry.selection
    file = entry.selection.scorecard.checkpoint
    if file.exists():
        return (
            f"{file} is damaged: it does not hold the weights that were scored; python -m "
            f"sweeper.reproduce run_id={entry.run_id} keep=all trains it again"
        )
    return (
        f"{file} is gone: it was removed, or another policy held "
        "when its trial ended and study.keep was not all; python -m sweeper.reproduce "
        f"run_id={entry.run_id} keep=all trains it again"
    )


def those_with_files_first(study: Path, ranked: list[Entry]) -> list[Entry]:
    """The trials, best first; those whose checkpoint somebody has deleted come after the others."""
    lost = []
    for entry in ranked:
        if entry.selection is None or find_weights(study, entry) is not None:
            break
        lost.append(entry)
        print(f"trial {entry.record.number} would be the pick, but {gone(entry)}")
    there = [entry for entry in ranked if entry not in lost and entry.selection]
    return [*there, *lost, *(entry for entry in ranked if entry.selection is None)]


def _write_json(
    study: Path,
    entries: list[Entry],
    best: Entry | None,
    ranked: list[Entry],
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
    content["front"] = _front(ranked)
    content["trials"] = [_trial_json(entry, policy) for entry in entries]
    file = study / RESULT
    write_atomically(file, json.dumps(content, indent=1).encode())
    return file


def _front(ranked: list[Entry]) -> list[int]:
    return [entry.record.number for entry in front_of(ranked)]


def _trial_json(entry: Entry, policy: PolicyConfig) -> dict[str, Any]:
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


def show(ranked: list[Entry]) -> None:
    """All the trials in a table; the pick is marked, failures say why."""
    entries = sorted(ranked, key=lambda entry: entry.record.number)
    best = ranked[0] if ranked[0].selection else None
    params = varied(entries)
    table = Table(title="trials", title_justify="left")
    for heading in ("", "trial", *map(last_word, params), "epochs", "keep", "overall"):
        table.add_column(heading, justify="right" if heading else "left")
    for heading in ("prompt", "subject", "memorised", "how it ended"):
        table.add_column(heading, justify="left" if heading.startswith("how") else "right")
    for entry in entries:
        record, selection = entry.record, entry.selection
        figures = [""] * 5
        if selection:
            card = selection.scorecard
            names = ("prompt_fidelity", "subject_fidelity", "pose_memorization")
            values = [f"{card.scores[n].value:.2f}" if n in card.scores else "" for n in names]
            over = "" if selection.feasible else " (over a limit)"
            told = "-" if selection.fidelity is None else f"{selection.fidelity:.2f}"
            figures = [str(card.epoch), f"{told}{over}", *values]
        table.add_row(
            "*" if entry is best else "",
            str(record.number),
            *(short(record.params.get(key, "")) for key in params),
            str(len(record.epochs)),
            *figures,
            f"{record.state}{f': {record.reason}' if record.reason else ''}",
        )
    Console(width=None if Console().is_terminal else 160).print(table)


def say(study: Path, ranked: list[Entry], policy: PolicyConfig) -> None:
    """The pick, why it is, what is wrong with its trial, and what to do with it."""
    best = ranked[0]
    if best.selection is None or find_weights(study, best) is None:
        print(f"no trial has a checkpoint; the table says why, and so does {study / REPORT}")
        return
    print("\n".join(explain(ranked)))
    for finding in diagnose(best.record.scorecards, policy):
        print(f"its trial's diagnosis: {finding}")
    front = _front(ranked)
    noun = "trial" if len(front) == 1 else "trials"
    print(f"not beaten in both fidelity and memorisation: {noun} {', '.join(map(str, front))}")
    print(f"the LoRA to keep: {study / PICK}")
    print(f"the report, to open in a browser: {study / REPORT}")
    if best.run_id:
        print(f"train it again: python -m sweeper.reproduce run_id={best.run_id}")
