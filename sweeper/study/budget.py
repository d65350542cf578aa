"""Decides when the budget of a study is exhausted."""

from __future__ import annotations

from evaluate.config import PolicyConfig
from evaluate.selection.policy import select
from sweeper.config import BudgetConfig
from sweeper.tracking.trial_record import FAILED, TrialRecord
from train.data.folders.wording import count_noun, plural_form


def budget_exhausted(budget: BudgetConfig, records: list[TrialRecord], policy: PolicyConfig) -> str:
    """Why no further trial may start; empty if one may."""
    spent = sum(epoch.seconds for record in records for epoch in record.epochs)
    if budget.device_hours is not None and spent >= budget.device_hours * 3600:
        return f"the budget of {budget.device_hours:g} device hours is used up"
    failed = [record for record in records if record.state == FAILED]
    if budget.max_failures is not None and len(failed) > budget.max_failures:
        return f"{count_noun(len(failed), 'trial')} failed, and the limit is {budget.max_failures}"
    without_improvement = _trials_since_best(records, policy)
    if budget.patience is not None and without_improvement >= budget.patience:
        verb = plural_form(without_improvement, "was", "were")
        return (
            f"the last {count_noun(without_improvement, 'trial')} {verb} no better than the one "
            "before"
        )
    return ""


def _trials_since_best(records: list[TrialRecord], policy: PolicyConfig) -> int:
    """Number of trials that ended after the best one."""
    finished = [record for record in records if record.finished]
    ended = sorted(finished, key=lambda record: record.ended or _last_scored(record))
    ranks = [
        select(record.scorecards, policy).rank if record.selected is not None else (False, -1e9)
        for record in ended
    ]
    return len(ranks) - 1 - ranks.index(max(ranks)) if ranks else 0


def _last_scored(record: TrialRecord) -> int:
    """When a trial was last scored, in milliseconds since 1970: the end of old records."""
    return max((epoch.time for epoch in record.epochs), default=0)
