"""A study's report: what there is to say, put into the page."""

from __future__ import annotations

import base64
import hashlib
import logging
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluate.config import PolicyConfig, check_policy
from evaluate.images.curves import CURVES
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.diagnosis import diagnose
from evaluate.selection.explain import describe_fault, exceeded, format_percent
from evaluate.selection.objective import MEMORY, total_violation
from sweeper.results import snippets
from sweeper.results.checkpoint_files import REPORT, RESULT
from sweeper.results.missing_trials import words_of_missing
from sweeper.results.ranking import RankedTrial, explain, front_of, varied
from sweeper.results.report import charts, pictures, tables
from sweeper.results.report.search_insights import look_at
from sweeper.results.retrain_command import again_command
from sweeper.tracking.trial_record import RUNNING, TrialRecord
from train.config.parsing import cause
from train.config.ranges import range_errors
from train.config.renamed_keys import migrate_keys
from train.errors import ConfigError
from train.files.atomic_write import write_atomically
from train.files.untrusted import Tree, UntrustedFileError, convert, read_json
from train.text.display import LINES, printable

log = logging.getLogger(__name__)
BEST = 3  # trials whose curves are shown
MOST_FRONT, FRONT_TILES = 12, 4  # trials of a front that are shown, and pictures of each
HERE = Path(__file__).parent


class _Result(msgspec.Struct):
    """What is read of a study's result."""

    policy_settings: Tree


def write_report(
    study: Path,
    ranked: list[RankedTrial],
    policy: PolicyConfig,
    file: Path | None = None,
    storage: str | None = None,
) -> Path:
    """Writes report.html into the study's folder: one file, which needs no other and no network.

    Args:
        ranked: all the trials, best first.
        file: where to write it instead.
        storage: where Optuna has the study, see `look_at`.

    Returns:
        The file.
    """
    file = file or study / REPORT
    write_atomically(file, render(study, ranked, policy, storage).encode())
    return file


def policy_of(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    """The policy that made a study's result; before there is one, that of its trials, and so it is
    if the file is damaged, with a warning."""
    file = study / RESULT
    try:
        return _checked(read_json(file, _Result).policy_settings, str(file))
    except FileNotFoundError:
        pass
    except (UntrustedFileError, OSError) as error:
        log.warning(f"{cause(error)}; the policy of its trials is used")
    settings = next((record.settings for record in records if record.settings), {})
    try:
        return _checked(settings.get("selection", {}), "the policy of its trials")
    except UntrustedFileError as error:
        log.warning(f"{cause(error)}; the policy that is used without any setting is taken")
    return PolicyConfig()


def _checked(settings: object, name: str) -> PolicyConfig:
    """Logged settings of a policy, as settings that are typed would be checked."""
    settings = migrate_keys({"policy": settings})["selection"]  # files of an earlier version
    policy = convert(settings, PolicyConfig, name)
    try:
        for complaint in range_errors(policy):
            raise ConfigError(complaint)
        check_policy(policy)
    except ConfigError as error:
        raise UntrustedFileError(f"{name}: {error}") from None
    return policy


def render(
    study: Path, ranked: list[RankedTrial], policy: PolicyConfig, storage: str | None = None
) -> str:
    """The page, as HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = format_percent
    environment.filters["breakable"] = _breakable
    script = (HERE / "script.js").read_text(encoding="utf-8")
    records = sorted((entry.record for entry in ranked), key=lambda record: record.number)
    searched = varied(ranked)
    headings, rows = tables.trial_table(ranked, searched)
    search = look_at(study, storage)
    return environment.get_template("page.html").render(
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=study.name,
        commands=[
            snippets.study_command(name, study, more)
            for name, more in (("report", ""), ("select", " selection=…"))
        ],
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


def _shown(value: object) -> object:
    """What is put into the page: no text in it turns the direction of writing, or is invisible."""
    if value is None or isinstance(value, int | float):
        return value
    shown = printable(str(value), LINES)
    return Markup(shown) if isinstance(value, Markup) else shown


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _pick(study: Path, ranked: list[RankedTrial], policy: PolicyConfig) -> dict[str, Any]:
    """Everything that the page shows of the best trial, which has a checkpoint."""
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
        "training": pictures.training_strip(study, record),
        "compared": compared,
        "overfitted": _overfitted(ranked, card, [*compared], policy),
        "moments": [c.label for c in pictures.moments(record.scorecards, card)],
        "strips": pictures.all_strips(record, card),
        "checkpoints": charts.checkpoints_chart(
            sorted((e.record for e in ranked), key=lambda r: r.number), record, card, policy
        ),
        "curves": [(e, charts.curves_chart(e, policy)) for e in told],
        "key": [(name, tables.SCORES[name][0], color) for name, color in CURVES.items()
                if name in card.scores],
        "findings": diagnose(record.scorecards, policy),
        "file": file.as_posix(),
        "lora": f"{study.name}.safetensors",
        "trigger": printable(str(record.setting("data", "trigger"))),
        "snippet": snippets.diffusers_snippet(record, file),
        "pack": str(record.pack),
        "reproduce": snippets.reproduce_commands(best.run_id, file, snippets.root_of(study)),
        "again": again_command(record),
    }  # fmt: skip


def _overfitted(
    ranked: list[RankedTrial], pick: Scorecard, names: list[str], policy: PolicyConfig
) -> pictures.Strip | None:
    """The same probes at the checkpoint that is most over the limits; None where none is."""
    all_cards = [(e.record, card) for e in ranked for card in usable(e.record.scorecards)]
    record, worst = max(all_cards, key=lambda pair: total_violation(pair[1], policy))
    if worst is pick or total_violation(worst, policy) <= 0:
        return None
    shares = {
        name: format_percent(max(0.0, worst.scores[name].value)) for name in exceeded(worst, policy)
    }
    words = ", ".join(describe_fault(name, share) for name, share in shares.items())
    title = f"What overfitting looks like: trial {record.number}, {worst.label}"
    return pictures.strip_of(record, worst, names, title, f"{words[:1].upper()}{words[1:]}.")


def _front(study: Path, ranked: list[RankedTrial]) -> list[dict[str, Any]]:
    """The Pareto-optimal trials of a search with two objectives, least memorized first."""
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


def _findings(entries: list[RankedTrial], policy: PolicyConfig) -> list[tuple[int, list[Any]]]:
    """The diagnosis of each trial that has one, by its number."""
    told = [
        (e.record.number, diagnose(e.record.scorecards, policy))
        for e in entries
        if e.record.scorecards
    ]
    return sorted((number, findings) for number, findings in told if findings)
