"""A study's final, as far as its files say."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from evaluate.config import PolicyConfig
from evaluate.selection.contenders import is_allowed
from evaluate.selection.verdict import Verdict
from evaluate.variant_files import FOLDER
from evaluate.verdict_file import VERDICT_FILE, WITH_FINAL, load_final, replay
from sweeper.tracking.trial_record import TrialRecord
from train.files.untrusted import UntrustedFileError

log = logging.getLogger(__name__)


def load_verdict(study: Path, records: list[TrialRecord], policy: PolicyConfig) -> Verdict | None:
    """What a study's final decides under a policy; loads no model.

    None if the study has had no final, if the policy needs none, or if verdict.json is damaged or
    has a checkpoint that the records lack.
    """
    if policy.rule not in WITH_FINAL:
        return None
    try:
        saved = load_final(study / VERDICT_FILE)
    except (UntrustedFileError, OSError) as error:
        log.warning(f"{error}; the first scores decide")
        return None
    if saved is None:
        return None
    cards = {(r.number, card.epoch): card for r in records for card in r.scorecards}
    finalists = []
    for finalist in saved.finalists:
        source = cards.get((finalist.trial or 0, finalist.first.epoch))
        if source is None:
            log.warning(f"{study / VERDICT_FILE} is of other trials; the first scores decide")
            return None
        first = source
        if finalist.first.is_variant:  # the study may have been moved
            file = study / FOLDER / finalist.first.checkpoint.name
            first = replace(finalist.first, checkpoint=file)
        if is_allowed(first, policy):
            finalists.append(replace(finalist, first=first))
    return replay(finalists, saved.config, policy)
