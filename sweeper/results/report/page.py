"""A study's report: what there is to say, put into the page."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluate.choice.diagnosis import diagnose
from evaluate.choice.merit import MEMORY, excess
from evaluate.choice.reasons import exceeded, fault, percent
from evaluate.config import PolicyConfig
from evaluate.curves import CURVES
from evaluate.scorecard import Scorecard, usable
from sweeper.recording.record import RUNNING, Record
from sweeper.results.files import POLICY, REPORT, RESULT
from sweeper.results.missing import words_of_missing
from sweeper.results.ranking import Entry, explain, front_of, varied
from sweeper.results.report import charts, pictures, tables, usage
from sweeper.results.report.search import look_at
from train.encoding import storable
from train.weights_file import write_atomically

BEST = 3  # trials whose curves are shown
MOST_FRONT, FRONT_TILES = 12, 4  # trials of a front that are shown, and pictures of each
HERE = Path(__file__).parent


def write_report(
    study: Path, ranked: list[Entry], policy: PolicyConfig, file: Path | None = None
) -> Path:
    """Writes report.html into the study's folder: one file, which needs no other and no network.

    Args:
        ranked: all the trials, best first.
        file: where to write it instead.

    Returns:
        The file.
    """
    file = file or study / REPORT
    write_atomically(file, storable(render(study, ranked, policy)).encode())
    return file


def policy_of(study: Path, records: list[Record]) -> PolicyConfig:
    """The policy that made a study's result; before there is one, or where its file is damaged,
    that of its trials."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return PolicyConfig(**json.loads((study / RESULT).read_bytes())[POLICY])
    return next((record.policy for record in records if record.settings), PolicyConfig())


def render(study: Path, ranked: list[Entry], policy: PolicyConfig) -> str:
    """The page, as HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["breakable"] = _breakable
    records = sorted((entry.record for entry in ranked), key=lambda record: record.number)
    searched = varied(ranked)
    headings, rows = tables.trial_table(ranked, searched)
    search = look_at(study, records)
    return environment.get_template("page.html").render(
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
        name=study.name,
        root=usage.root_of(study),
        policy=policy,
        search=search,
        pick=_pick(study, ranked, policy) if ranked[0].selection else None,
        front=_front(study, ranked) if search.front else [],
        unbeaten=[entry.record.number for entry in front_of(ranked)],
        headings=headings,
        rows=rows,
        missing=words_of_missing(study),
        running=sum(record.state == RUNNING for record in records),
        failures=tables.failures(ranked),
        took=tables.took(records),
        others=_findings(ranked[1:], policy),
    )


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _pick(study: Path, ranked: list[Entry], policy: PolicyConfig) -> dict[str, Any]:
    """All that is said of the first trial, which has a checkpoint."""
    best = ranked[0]
    assert best.selection
    record, card = best.record, best.selection.scorecard
    file = study / "best.safetensors"
    told = [entry for entry in ranked if entry.selection][:BEST]
    compared = pictures.compared(record, card)
    return {
        "number": record.number,
        "label": card.label,
        "feasible": best.selection.feasible,
        "reasons": explain(ranked),
        "notes": [*best.selection.reasons, *card.notes],
        "chips": tables.chips(record),
        "settings": tables.setting_groups(record),
        "scores": tables.score_rows(card, policy),
        "confidence": card.confidence,
        "training": pictures.training_strip(record),
        "compared": compared,
        "overfitted": _overfitted(ranked, card, [*compared], policy),
        "moments": [c.label for c in pictures.moments(record.scorecards, card)],
        "strips": pictures.all_strips(record, card),
        "checkpoints": charts.checkpoints_chart(
            sorted((e.record for e in ranked), key=lambda r: r.number), record, card, policy
        ),
        "curves": [(e, charts.curves_chart(e, policy)) for e in told],
        "key": [(name, tables.SCORES[name][0], colour) for name, colour in CURVES.items()
                if name in card.scores],
        "findings": diagnose(record.scorecards, policy),
        "file": file.as_posix(),
        "lora": f"{study.name}.safetensors",
        "trigger": record.known.data.trigger,
        "snippet": usage.diffusers_snippet(record, file),
        "run_id": best.run_id,
        "pack": str(record.pack),
        "reproduce": usage.reproduce_commands(best.run_id, file, usage.root_of(study)),
        "again": usage.again_command(record),
    }  # fmt: skip


def _overfitted(
    ranked: list[Entry], pick: Scorecard, names: list[str], policy: PolicyConfig
) -> pictures.Strip | None:
    """The same probes at the checkpoint that is most over the limits; None where none is."""
    all_cards = [(e.record, card) for e in ranked for card in usable(e.record.scorecards)]
    record, worst = max(all_cards, key=lambda pair: excess(pair[1], policy))
    if worst is pick or excess(worst, policy) <= 0:
        return None
    shares = {name: percent(max(0.0, worst.scores[name].value)) for name in exceeded(worst, policy)}
    words = ", ".join(fault(name, share) for name, share in shares.items())
    title = f"What overfitting looks like: trial {record.number}, {worst.label}"
    return pictures.strip_of(record, worst, names, title, f"{words[:1].upper()}{words[1:]}.")


def _front(study: Path, ranked: list[Entry]) -> list[dict[str, Any]]:
    """The trials among which a search for two things leaves the choice, least memorised first."""
    shown = []
    for entry in front_of(ranked)[:MOST_FRONT]:
        assert entry.selection
        card = entry.selection.scorecard
        strips = pictures.all_strips(entry.record, card, FRONT_TILES * 2)
        shown.append({
            "number": entry.record.number,
            "label": card.label,
            "fidelity": entry.selection.fidelity,
            "memory": card.scores[MEMORY].value if MEMORY in card.scores else None,
            "feasible": entry.selection.feasible,
            "chips": tables.chips(entry.record),
            "file": card.checkpoint.as_posix(),
            "tiles": strips[0].tiles[:FRONT_TILES] if strips else [],
        })  # fmt: skip
    return shown


def _findings(entries: list[Entry], policy: PolicyConfig) -> list[tuple[int, list[Any]]]:
    """The diagnosis of each trial that has one, by its number."""
    told = [
        (e.record.number, diagnose(e.record.scorecards, policy))
        for e in entries
        if e.record.scorecards
    ]
    return sorted((number, findings) for number, findings in told if findings)
