"""`python -m evaluate`: scores existing LoRA files and says which one to keep."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.text import Text

from evaluate.checkpoints.checkpoint_checks import loadable_files, mismatch_warnings, readable_files
from evaluate.checkpoints.find import find
from evaluate.checkpoints.save_order import order_files
from evaluate.config import EvaluateConfig
from evaluate.console.tables import PlainTable, literal_text, table_console
from evaluate.files_check import check_files
from evaluate.final import decide
from evaluate.images.contact_sheet import save_sheet
from evaluate.images.curves import draw_curves
from evaluate.images.figures import save_png
from evaluate.library import load_scorer
from evaluate.score_cache import ScoreCache, key_of
from evaluate.scorecard import Estimate, Scorecard, usable
from evaluate.scorer import Scorer
from evaluate.selection.contenders import variant_sources
from evaluate.selection.diagnosis import Finding, describe, diagnose
from evaluate.selection.final_rounds import line_up
from evaluate.selection.objective import fidelity
from evaluate.selection.policy import Selection, check_scores, select
from evaluate.selection.verdict import Verdict
from evaluate.tracking.environment import environment
from evaluate.tracking.mlflow_store import MlflowStore, TrackedRun, score_metrics
from evaluate.tracking.tracking_uri import check_tracking
from evaluate.variants.files import FOLDER, delete_others
from evaluate.variants.scoring import score_variants, variants_of
from evaluate.verdict_file import VERDICT_FILE, has_final, mlflow_tags
from train.config.flattening import flatten
from train.data.dataset import load_dataset
from train.data.images.buckets import framing_of
from train.errors import CheckpointError
from train.files.atomic_write import write_text_atomically
from train.loop.construction_checks import check_device
from train.models.base_model import load_base
from train.models.model_files import check_location
from train.text.display import LINES
from train.text.shell import in_setting
from train.text.terminal import log_lines, print_lines

log = logging.getLogger(__name__)
WIDE_COLUMNS = 230  # columns of a table with intervals


def main(config: EvaluateConfig) -> None:
    """Scores the files in order, saves and logs the results, and prints which file to keep."""
    check_device(config.base)
    check_tracking(Path(config.root))
    check_files(config.probes, config.scores)
    metadata = readable_files(find(config.checkpoints)) if config.checkpoints else {}
    unit, files = order_files(metadata) if metadata else ("epoch", {})
    check_location(config.base.path)
    dataset = load_dataset(config.data)
    log_lines(log, dataset.report())
    output = Path(config.output)
    base = load_base(config.base)
    if files:
        valid = loadable_files(files, base)
        files = {file: number for file, number in files.items() if file in valid}
        for line in mismatch_warnings([metadata[file] for file in files], base, config.data):
            log.warning(line)
    scorer = load_scorer(config, base, dataset)
    check_scores(config.selection, scorer.names)
    probes = output / "probes.yaml"
    write_text_atomically(probes, scorer.probe_set.to_yaml())
    override = in_setting("probes.file", probes)
    log.info(f"the probes are in {probes}; edit them and pass them back with {override}")
    if not files:
        return
    fingerprints = {"data": dataset.fingerprint, "base": scorer.base.fingerprint,
             "probes": scorer.fingerprint, "sizes": str(framing_of(config.data))}  # fmt: skip
    cache = ScoreCache(output, fingerprints)
    cards = score(files, unit, scorer, cache, output)
    if not usable(cards):
        raise CheckpointError(f"none of the files can be used: {cards[0].failure}")
    verdict = hold_final(cards, scorer, cache, config, output)
    selection = select(cards, config.selection, verdict)
    findings = diagnose(cards, config.selection)
    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    title = str(config.checkpoints)
    draw_curves(figure.subplots(), cards, selection.scorecard, config.selection, title)
    save_png(figure, output / "curves.png")
    _log(config, cards, selection, findings, fingerprints, base.device)
    _print_results(cards, selection, findings)


def hold_final(
    cards: list[Scorecard],
    scorer: Scorer,
    cache: ScoreCache,
    config: EvaluateConfig,
    output: Path,
) -> Verdict | None:
    """The verdict of a final between the files that may be the best; None without a final.

    An unchanged final is not repeated.
    """
    policy, size = config.selection, config.final.contenders
    if not has_final(config.final, policy):
        return None
    variants = {
        f"{source.label.replace(' ', '-')}-{variant.stem}": variant
        for source in variant_sources(cards, size)
        for variant in variants_of(usable(cards), source, policy)
    }
    made = score_variants(variants, scorer, cache, output / FOLDER)
    finalists = line_up([*cards, *made.values()], policy, size)
    verdict = decide(finalists, scorer, config.final, policy, output / VERDICT_FILE)
    delete_others(output / FOLDER, [*cards, *(finalist.first for finalist in finalists)])
    return verdict


def score(
    files: dict[Path, int], unit: str, scorer: Scorer, cache: ScoreCache, output: Path
) -> list[Scorecard]:
    """A scorecard and a contact sheet for each file; cached scorecards are reused."""
    cards, start, scored = [], time.monotonic(), 0
    for number, (file, epoch) in enumerate(files.items(), start=1):
        card = cache.find(file)
        if card is None:
            card = scorer({file: epoch})[0]
            scored += 1
            card.unit = unit
            save_sheet(scorer.sheet(card), sheet_of(output, card))
            cache.add(card)
            remaining = (time.monotonic() - start) / scored * (len(files) - number)
            log.info(f"{number}/{len(files)}  {file.name}  about {remaining:.0f} s left")
        card.epoch, card.unit = epoch, unit
        cards.append(card)
    return cards


def sheet_of(output: Path, card: Scorecard) -> Path:
    """The path of a file's contact sheet."""
    return output / f"{card.unit}-{card.epoch:06d}.png"


def _log(
    config: EvaluateConfig,
    cards: list[Scorecard],
    selection: Selection,
    findings: list[Finding],
    fingerprints: dict[str, str],
    device: torch.device,
) -> None:
    """Logs one MLflow run for the folder of files; it is continued while `about` is the same."""
    output = Path(config.output)
    store = MlflowStore(Path(config.root), "evaluations")
    with store.tolerate_outage():
        run = TrackedRun(store, output / "mlflow.json", output.name)
        run.start_new_if_changed(
            {**fingerprints, **{card.label: key_of(card.checkpoint) for card in cards}}
        )
        run.begin({**environment(device), **fingerprints})
        run.resume()
        run.log_once("params", lambda: run.log_params(flatten(asdict(config))))
        now = int(time.time() * 1000)
        for card in cards:
            name, sheet = f"{card.checkpoint.name} {card.epoch}", sheet_of(output, card)
            run.log_once(f"scores {name}", partial(run.log_metrics, score_metrics(card, now)))
            if sheet.is_file():
                show = partial(run.log_image, sheet, "contact_sheet", card.epoch)
                run.log_once(f"sheet {name}", show)
        run.set_tags({
            "policy": json.dumps(asdict(config.selection)),
            "kept": str(selection.scorecard.checkpoint),
            "reasons": " ".join(selection.reasons),
            "diagnosis": describe(findings),
            **(mlflow_tags(selection.verdict, config.selection) if selection.verdict else {}),
        })  # fmt: skip
        names = ["probes.yaml", "scorecards.json", "curves.png"]
        names += [VERDICT_FILE] if selection.verdict else []
        for file in (name for name in names if (output / name).is_file()):
            store.client.log_artifact(run.id, str(output / file))
        store.client.log_artifact(run.id, str(selection.scorecard.checkpoint), "checkpoint")
        store.client.set_terminated(run.id, "FINISHED")


def _print_results(cards: list[Scorecard], selection: Selection, findings: list[Finding]) -> None:
    console = table_console(WIDE_COLUMNS)
    console.print(table(cards, selection.scorecard, intervals=console.width >= WIDE_COLUMNS))
    for card in (card for card in cards if card.failure):
        print_lines(f"{card.checkpoint.name} cannot be used: {card.failure}")
    print_lines(
        *(f"note: {note}" for note in selection.scorecard.notes),
        *(f"diagnosis: {finding}" for finding in findings),
        f"keep {selection.scorecard.checkpoint}",
        " ".join(selection.reasons),
    )


def table(cards: list[Scorecard], selected: Scorecard, intervals: bool) -> PlainTable:
    """The scorecards in order, with the selected one marked.

    Args:
        intervals: add the confidence intervals.
    """
    names = list(dict.fromkeys(name for card in cards for name in card.scores))
    cards = cards if any(card is selected for card in cards) else [*cards, selected]
    result = PlainTable()
    for heading in ("", selected.unit, "fidelity", *(name.replace("_", " ") for name in names)):
        result.heading(heading)
    for card in cards:
        cells = [_cell(card.scores.get(name), intervals) for name in names]
        mark = "keep" if card is selected else ""
        value = fidelity(card)
        shown = "failed" if card.failure else "-" if value is None else f"{value:.2f}"
        number = card.label.partition(" ")[2] if card.is_variant else str(card.epoch)
        result.row(mark, number, shown, *cells)
    return result


def _cell(estimate: Estimate | None, interval: bool) -> Text:
    if estimate is None:
        return literal_text("-")
    bounds = f"\n{estimate.low:.2f} to {estimate.high:.2f}" if interval else ""
    return literal_text(f"{estimate.value:.2f}{bounds}", verbatim=LINES)
