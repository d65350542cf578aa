"""The end of a study: the pick and why, the table, the files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluate.config import PolicyConfig
from evaluate.policy import Selection, select
from sweeper.overview import draw_overview
from sweeper.parts import Parts, origin
from sweeper.progress import short
from sweeper.record import FAILED, Record, load_records
from sweeper.tracker import Tracker
from train.checkpoint import write_atomically


@dataclass(frozen=True)
class Entry:
    """A trial of the finished study, and the checkpoint selected from it (None: it failed)."""

    record: Record
    run_id: str
    selection: Selection | None

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Greater is better: within the limits by fidelity, else by how little it is over them."""
        if self.selection is None:
            return (False, float("-inf"), -self.record.number)
        over = sum(max(0.0, v) for v in self.selection.violations.values())
        value = self.selection.fidelity if self.selection.feasible else -over
        return (self.selection.feasible, value, -self.record.number)


def conclude(study: Path, policy: PolicyConfig, tracker: Tracker, parts: Parts) -> None:
    """Selects over all trials, writes the study's files, logs them and prints the table."""
    entries = []
    for record in load_records(study):
        if record.settings:
            tracker.mirror(record, policy)  # what a server that was away has missed
        selected = record.scorecards and record.state != FAILED
        selection = select(record.scorecards, policy) if selected else None
        entries.append(Entry(record, tracker.run_of(record).id_now, selection))
    ranked = sorted(entries, key=lambda entry: entry.rank, reverse=True)
    best = ranked[0] if ranked and ranked[0].selection else None
    _table(entries, best)
    files = [_write_json(study, entries, best, ranked)]
    reasons: list[str] = []
    if best:
        assert best.selection
        checkpoint = best.selection.scorecard.checkpoint
        write_atomically(study / "best.safetensors", checkpoint.read_bytes())
        overview = study / "overview.png"
        records = [entry.record for entry in entries]
        draw_overview(overview, records, best.record, best.selection.scorecard, policy)
        files += [study / "best.safetensors", overview]
        reasons = explain(best, ranked)
    probes = study / "probes.yaml"
    probes.write_text(parts.scorer.probe_set.to_yaml(), encoding="utf-8")
    tags = {**origin(parts), "state": "complete", "reasons": " ".join(reasons)}
    if best:
        tags |= {"best_run_id": best.run_id, "best_trial": str(best.record.number)}
    tracker.conclude(best.record if best else None, [*files, probes], tags)
    _say(study, best, reasons)


def varied(entries: list[Entry]) -> list[str]:
    """The settings in which the trials differ."""
    keys = dict.fromkeys(key for entry in entries for key in entry.record.params)
    return [key for key in keys if len({str(e.record.params.get(key)) for e in entries}) > 1]


def explain(best: Entry, ranked: list[Entry]) -> list[str]:
    """The pick in two plain sentences: why this trial; why this epoch and not a later one."""
    pick = best.selection
    assert pick
    scores = pick.scorecard.scores
    settings = ", ".join(
        f"{_last(key)} {short(best.record.params[key])}"
        for key in varied(ranked)
        if key in best.record.params
    )
    trial = f"Trial {best.record.number}{f' ({settings})' if settings else ''}"
    rivals = [entry for entry in ranked[1:] if entry.selection and entry.selection.feasible]
    if not pick.feasible:
        first = (
            f"WARNING: no checkpoint of any trial keeps all the limits; t{trial[1:]} is over them "
            "by the least, so use it with care"
        )
    elif rivals:
        assert rivals[0].selection
        first = (
            f"{trial} has the best balance of likeness and obedience of all trials within the "
            f"limits: {pick.fidelity:.3f}, the next is trial {rivals[0].record.number} with "
            f"{rivals[0].selection.fidelity:.3f}"
        )
    elif len(ranked) > 1:
        first = f"{trial} is the only one with a checkpoint within the limits"
    else:
        first = f"{trial} keeps all the limits"
    second = (
        f"After epoch {pick.scorecard.epoch} it has learned "
        f"{100 * max(0.0, scores['subject_fidelity'].value):.0f} % of the likeness and follows "
        f"prompts {100 * scores['prompt_fidelity'].value:.0f} % as well as the base"
    )
    if pick.later:
        second += f", while {pick.later}"
    elif best.record.scorecards[-1].epoch > pick.scorecard.epoch:
        second += ", and its later epochs are not better by more than chance"
    return [f"{first}.", f"{second}."]


def _write_json(study: Path, entries: list[Entry], best: Entry | None, ranked: list[Entry]) -> Path:
    content: dict[str, Any] = {"study": study.name, "run_id": None, "epoch": None}
    if best and best.selection:
        card = best.selection.scorecard
        content |= {
            "run_id": best.run_id,
            "trial": best.record.number,
            "epoch": card.epoch,
            "checkpoint": "best.safetensors",
            "feasible": best.selection.feasible,
            "fidelity": best.selection.fidelity,
            "scores": {name: estimate.value for name, estimate in card.scores.items()},
            "intervals": {name: [e.low, e.high] for name, e in card.scores.items()},
            "reasons": explain(best, ranked),
            "notes": [*best.selection.reasons, *card.notes],
        }
    content["trials"] = [_trial_json(entry) for entry in entries]
    file = study / "result.json"
    write_atomically(file, json.dumps(content, indent=1).encode())
    return file


def _trial_json(entry: Entry) -> dict[str, Any]:
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
        "seconds": round(sum(e.seconds_training + e.seconds_scoring for e in record.epochs), 1),
    }


def _table(entries: list[Entry], best: Entry | None) -> None:
    """All the trials; the pick is marked, failures say why."""
    params = varied(entries)
    table = Table(title="trials", title_justify="left")
    for heading in ("", "trial", *map(_last, params), "epochs", "keep", "overall"):
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
            figures = [str(card.epoch), f"{selection.fidelity:.2f}{over}", *values]
        table.add_row(
            "*" if entry is best else "",
            str(record.number),
            *(short(record.params.get(key, "")) for key in params),
            str(len(record.epochs)),
            *figures,
            f"{record.state}{f': {record.reason}' if record.reason else ''}",
        )
    Console(width=None if Console().is_terminal else 160).print(table)


def _say(study: Path, best: Entry | None, reasons: list[str]) -> None:
    if best is None:
        print("no trial has a checkpoint; the table says why")
        return
    print("\n".join(reasons))
    print(f"the LoRA to keep: {study / 'best.safetensors'}")
    print(f"all the checkpoints in one picture: {study / 'overview.png'}")
    if best.run_id:
        print(f"train it again: python -m sweeper.reproduce run_id={best.run_id}")


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]
