"""A study's final, as far as its files say."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import msgspec

from evaluate.config import PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.contenders import is_allowed
from evaluate.selection.objective import total_violation
from evaluate.selection.verdict import Verdict
from evaluate.variants.files import FOLDER
from evaluate.verdict_file import VERDICT_FILE, WITH_FINAL, load_final, replay
from sweeper.results.checkpoint_files import RESULT_FILE
from sweeper.tracking.trial_record import RecordError, TrialRecord, checkpoint_name
from train.files.untrusted import Tree, UntrustedFileError, read_json

log = logging.getLogger(__name__)


class _Result(msgspec.Struct):
    """The field of a study's result that is read."""

    verdict: Tree | None = None


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
            try:
                name = checkpoint_name(finalist.first.checkpoint)
            except RecordError as error:
                log.warning(f"{study / VERDICT_FILE}: {error}; the first scores decide")
                return None
            first = replace(finalist.first, checkpoint=study / FOLDER / name)
        if is_allowed(first, policy):
            finalists.append(finalist.of(first))
    verdict = replay(finalists, saved.config, policy)
    if verdict is None:
        log.warning("no finalist may be kept by selection.strengths and selection.averages; "
                    "the first scores decide")  # fmt: skip
    elif not verdict.eligible and any(_is_feasible(card, policy) for card in cards.values()):
        log.warning("no finalist is within these limits, but other checkpoints may be; the first "
                    "scores decide, until the study's command with these limits holds a new final"
                    )  # fmt: skip
        return None
    return verdict


def decided(study: Path) -> bool:
    """Whether the study's final decided its result; true if there is no result that says so.

    A study that goes on without a final keeps the former one's file for other selections.
    """
    try:
        return read_json(study / RESULT_FILE, _Result).verdict is not None
    except (UntrustedFileError, OSError):
        return True


def _is_feasible(card: Scorecard, policy: PolicyConfig) -> bool:
    return total_violation(card, policy) <= 0
