"""The final of a study: the checkpoints that may be its best are compared on fresh probes."""

from __future__ import annotations

import logging
from pathlib import Path

from evaluate.final import decide
from evaluate.scorer import Scorer
from evaluate.selection.contenders import contender_groups
from evaluate.selection.verdict import Finalist
from evaluate.verdict_file import VERDICT_FILE, WITH_FINAL
from sweeper.config import SweepConfig
from sweeper.tracking.trial_record import FAILED, RUNNING, TrialRecord, load_records
from train.data.folders.wording import count_noun

log = logging.getLogger(__name__)


def hold_final(study: Path, scorer: Scorer, config: SweepConfig) -> None:
    """Writes the study's verdict.json, unless there is no final.

    An unchanged final is not held again.
    """
    file, policy = study / VERDICT_FILE, config.selection
    finalists = []
    if config.final.contenders and policy.rule in WITH_FINAL:
        records = [r for r in load_records(study) if r.state not in (RUNNING, FAILED)]
        finalists = _finalists(records, config)
    if (count := sum(finalist.group == 0 for finalist in finalists)) > 1:
        log.info(f"the final: {count_noun(count, 'checkpoint')} on fresh probes")
    decide(finalists, scorer, config.final, policy, file)


def _finalists(records: list[TrialRecord], config: SweepConfig) -> list[Finalist]:
    """The contenders whose files exist; among equals the earliest epoch and the lowest rank."""
    owners = {
        id(card): record
        for record in records
        for card in record.scorecards
        if card.checkpoint.is_file()
    }
    existing = [c for record in records for c in record.scorecards if id(c) in owners]
    groups = contender_groups(existing, config.selection, config.final.contenders)
    finalists = []
    for number, group in enumerate(groups):
        for card in group:
            record = owners[id(card)]
            rank = record.setting("network", "rank")
            order = (card.epoch, rank if isinstance(rank, int) else 0, record.number)
            finalists.append(Finalist(card, order, trial=record.number, group=number))
    return finalists
