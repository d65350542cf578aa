"""The final of a study: the checkpoints that may be its best are compared on fresh probes."""

from __future__ import annotations

import logging
from pathlib import Path

from evaluate.final import decide
from evaluate.score_cache import ScoreCache
from evaluate.scorecard import Scorecard, usable
from evaluate.scorer import Scorer
from evaluate.selection.contenders import variant_sources
from evaluate.selection.final_rounds import line_up
from evaluate.selection.verdict import Finalist, order_of
from evaluate.variants.files import FOLDER, delete_others
from evaluate.variants.scoring import score_variants, variants_of
from evaluate.verdict_file import VERDICT_FILE, has_final
from sweeper.config import SweepConfig
from sweeper.tracking.trial_record import FAILED, RUNNING, TrialRecord, load_records
from train.data.folders.wording import count_noun

log = logging.getLogger(__name__)
Owners = dict[int, TrialRecord]  # by the ids of scorecards


def hold_final(study: Path, scorer: Scorer, config: SweepConfig) -> None:
    """Writes the study's verdict.json. An unchanged final is not held again.

    If the settings want no final, a former one stays for other settings.
    """
    if not has_final(config.final, config.selection):
        return
    records = [r for r in load_records(study) if r.state not in (RUNNING, FAILED)]
    owners = _owners(records)
    cards = [card for record in records for card in record.scorecards if id(card) in owners]
    cards += _variants(study, cards, owners, scorer, config)
    finalists = line_up(
        cards,
        config.selection,
        config.final.contenders,
        lambda card: _finalist(card, owners[id(card)]),
    )
    if (count := sum(finalist.group == 0 for finalist in finalists)) > 1:
        log.info(f"the final: {count_noun(count, 'checkpoint')} on fresh probes")
    decide(finalists, scorer, config.final, config.selection, study / VERDICT_FILE)
    delete_others(study / FOLDER, [finalist.first for finalist in finalists])


def _owners(records: list[TrialRecord]) -> Owners:
    """The trials of the checkpoints whose files exist."""
    return {
        id(card): record
        for record in records
        for card in record.scorecards
        if card.checkpoint.is_file()
    }


def _variants(
    study: Path, cards: list[Scorecard], owners: Owners, scorer: Scorer, config: SweepConfig
) -> list[Scorecard]:
    """The scorecards of other strengths and averages of the best checkpoints; adds their owners."""
    sources = variant_sources(cards, config.final.contenders)
    variants, trials = {}, {}
    for card in sources:
        record = owners[id(card)]
        for variant in variants_of(usable(record.scorecards), card, config.selection):
            if all(id(source) in owners for source in variant.sources):
                name = f"trial-{record.number:04d}-{variant.stem}"
                variants[name], trials[name] = variant, record
    if not variants:
        return []
    count = count_noun(len(variants), "variant")
    log.info(f"scoring {count} of the best checkpoints: other strengths or averages")
    folder = study / FOLDER
    about = {"base": scorer.base.fingerprint, "probes": scorer.fingerprint}
    scored = score_variants(variants, scorer, ScoreCache(folder, about), folder)
    owners |= {id(card): trials[name] for name, card in scored.items()}
    return [*scored.values()]


def _finalist(card: Scorecard, record: TrialRecord) -> Finalist:
    """Among equals the earliest epoch and the lowest rank come first."""
    rank = record.setting("network", "rank")
    order = order_of(card, rank if isinstance(rank, int) else 0, record.number)
    return Finalist(card, order, trial=record.number)
