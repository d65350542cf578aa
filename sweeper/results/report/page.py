"""Renders a study's report from its records."""

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
from evaluate.selection.explain import describe_fault, exceeded_by_estimate, format_percent
from evaluate.selection.objective import MEMORY, is_noise, total_violation
from sweeper.results import snippets
from sweeper.results.checkpoint_files import PROBES_FILE, REPORT_FILE, RESULT_FILE
from sweeper.results.missing_trials import describe_missing
from sweeper.results.ranking import RankedTrial, explain, pareto_trials, varied_params
from sweeper.results.report import charts, images, tables
from sweeper.results.report.finalists import finalist_rows
from sweeper.results.report.search_insights import analyze_search
from sweeper.results.retrain_command import retrain_command
from sweeper.tracking.trial_record import RUNNING, TrialRecord
from train.config.parsing import cause
from train.config.ranges import range_errors
from train.config.renamed_keys import migrate_keys
from train.errors import ConfigError
from train.files.atomic_write import write_atomically
from train.files.untrusted import Tree, UntrustedFileError, convert, read_json
from train.text.display import LINES, printable

log = logging.getLogger(__name__)
CURVE_TRIALS = 3  # trials whose curves are shown
MAX_FRONT, TILES_PER_FRONT_TRIAL = 12, 4  # trials of a front that are shown, and images of each
FOLDER = Path(__file__).parent


class _Result(msgspec.Struct):
    """The fields of a study's result that are read."""

    policy_settings: Tree


def write_report(
    study: Path,
    ranked: list[RankedTrial],
    policy: PolicyConfig,
    file: Path | None = None,
    storage: str | None = None,
) -> Path:
    """Writes report.html into the study's folder: one self-contained file.

    Args:
        ranked: all trials, best first.
        file: another path to write to.
        storage: Optuna's storage of the study, see `analyze_search`.

    Returns:
        The path of the report.
    """
    file = file or study / REPORT_FILE
    write_atomically(file, render(study, ranked, policy, storage).encode())
    return file


def policy_of(study: Path, records: list[TrialRecord]) -> PolicyConfig:
    """The policy that selected a study's result.

    Before there is a result, it is the policy of the trials, as well as if the result is damaged,
    which is logged as a warning.
    """
    file = study / RESULT_FILE
    try:
        return _checked_policy(read_json(file, _Result).policy_settings, str(file))
    except FileNotFoundError:
        pass
    except (UntrustedFileError, OSError) as error:
        log.warning(f"{cause(error)}; the policy of its trials is used")
    settings = next((record.settings for record in records if record.settings), {})
    try:
        return _checked_policy(settings.get("selection", {}), "the policy of its trials")
    except UntrustedFileError as error:
        log.warning(f"{cause(error)}; the default policy is used")
    return PolicyConfig()


def _checked_policy(settings: object, name: str) -> PolicyConfig:
    """A policy from logged settings, checked like typed ones."""
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
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = format_percent
    environment.filters["breakable"] = _breakable
    script = (FOLDER / "script.js").read_text(encoding="utf-8")
    records = sorted((entry.record for entry in ranked), key=lambda record: record.number)
    searched = varied_params(ranked)
    headings, rows = tables.trial_table(ranked, searched)
    search = analyze_search(study, storage)
    return environment.get_template("page.html").render(
        style=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=study.name,
        commands=[
            snippets.study_command(name, study, extra)
            for name, extra in (("report", ""), ("select", " selection=…"))
        ],
        policy=policy,
        search=search,
        selected=_selected(study, ranked, policy) if ranked[0].selection else None,
        front=_front_entries(study, ranked) if search.front else [],
        pareto_numbers=[entry.record.number for entry in pareto_trials(ranked)],
        headings=headings,
        rows=rows,
        missing=describe_missing(study),
        running=sum(record.state == RUNNING for record in records),
        failures=tables.failures(ranked),
        timing=tables.timing(records),
        other_findings=_findings_by_trial(ranked[1:], policy),
    )


def _printable_value(value: object) -> object:
    """A value as it is put into the page: without bidi controls and invisible characters."""
    if value is None or isinstance(value, int | float):
        return value
    text = printable(str(value), LINES)
    return Markup(text) if isinstance(value, Markup) else text


def _breakable(name: str) -> Markup:
    """A name that may break after each underscore in a narrow column."""
    return Markup("_<wbr>").join(name.split("_"))


def _selected(study: Path, ranked: list[RankedTrial], policy: PolicyConfig) -> dict[str, Any]:
    """The template variables of the best trial, which must have a checkpoint."""
    best = ranked[0]
    assert best.selection
    record, card = best.record, best.selection.scorecard
    file = study / "best.safetensors"
    charted = [entry for entry in ranked if entry.selection][:CURVE_TRIALS]
    comparison = images.compare_epochs(record, card)
    prompt = snippets.example_prompt(record, study / PROBES_FILE)
    return {
        "number": record.number,
        "label": card.label,
        "strength": card.strength,
        "is_variant": card.is_variant,
        "feasible": best.selection.feasible,
        "reasons": explain(ranked),
        "notes": [*best.selection.reasons, *card.notes],
        "chips": tables.chips(record),
        "settings": tables.setting_groups(record),
        "scores": tables.score_rows(best.selection.reported, policy),
        "finalists": finalist_rows(best.selection.verdict),
        "tolerance": best.selection.verdict.tolerance if best.selection.verdict else None,
        "confidence": card.confidence,
        "training": images.training_strip(study, record),
        "comparison": comparison,
        "overfitted": _overfitted(ranked, card, [*comparison], policy),
        "epoch_labels": [c.label for c in images.key_epochs(record.scorecards, card)],
        "strips": images.all_strips(record, card),
        "checkpoints": charts.checkpoints_chart(
            sorted((e.record for e in ranked), key=lambda r: r.number), record, card, policy
        ),
        "curves": [(e, charts.curves_chart(e, policy)) for e in charted],
        "legend": [(name, tables.SCORE_TITLES[name][0], color) for name, color in CURVES.items()
                   if name in card.scores],
        "findings": diagnose(record.scorecards, policy),
        "file": file.as_posix(),
        "lora": f"{study.name}.safetensors",
        "trigger": printable(str(record.setting("data", "trigger"))),
        "prompt": " ".join(prompt.split()),
        "snippet": snippets.diffusers_snippet(record, file, prompt),
        "pack": str(record.pack),
        "reproduce": snippets.reproduce_commands(best.run_id, file, snippets.root_argument(study)),
        "retrain": retrain_command(record),
    }  # fmt: skip


def _overfitted(
    ranked: list[RankedTrial], selected: Scorecard, names: list[str], policy: PolicyConfig
) -> images.Strip | None:
    """The same probes at the checkpoint that exceeds the limits most; None if none does.

    Noise is left out, because it shows nothing that could be repeated, and so are checkpoints that
    only may exceed a limit.
    """
    candidates = [
        (entry.record, card)
        for entry in ranked
        for card in usable(entry.record.scorecards)
        if card is not selected and exceeded_by_estimate(card, policy) and not is_noise(card)
    ]
    if not candidates:
        return None
    record, worst = max(candidates, key=lambda pair: total_violation(pair[1], policy))
    shares = {
        name: format_percent(max(0.0, worst.scores[name].value))
        for name in exceeded_by_estimate(worst, policy)
    }
    summary = ", ".join(describe_fault(name, share) for name, share in shares.items())
    title = f"What overfitting looks like: trial {record.number}, {worst.label}"
    return images.probe_strip(record, worst, names, title, f"{summary[:1].upper()}{summary[1:]}.")


def _front_entries(study: Path, ranked: list[RankedTrial]) -> list[dict[str, Any]]:
    """The Pareto-optimal trials of a search with two objectives, least memorized first."""
    trials = []
    for entry in pareto_trials(ranked)[:MAX_FRONT]:
        assert entry.selection
        card = entry.selection.scorecard
        strips = images.all_strips(entry.record, card, TILES_PER_FRONT_TRIAL * 2)
        trials.append({
            "number": entry.record.number,
            "label": card.label,
            "fidelity": entry.selection.fidelity,
            "memory": card.scores[MEMORY].value if MEMORY in card.scores else None,
            "feasible": entry.selection.feasible,
            "chips": tables.chips(entry.record),
            "file": card.checkpoint.as_posix(),
            "tiles": strips[0].tiles[:TILES_PER_FRONT_TRIAL] if strips else [],
        })  # fmt: skip
    return trials


def _findings_by_trial(
    entries: list[RankedTrial], policy: PolicyConfig
) -> list[tuple[int, list[Any]]]:
    """The trial numbers and diagnoses of all trials with findings."""
    diagnoses = [
        (e.record.number, diagnose(e.record.scorecards, policy))
        for e in entries
        if e.record.scorecards
    ]
    return sorted((number, findings) for number, findings in diagnoses if findings)
