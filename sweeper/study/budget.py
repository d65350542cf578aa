"""When a study has had enough trials."""

from __future__ import annotations

from evaluate.config import PolicyConfig
from evaluate.selection.policy import select
from sweeper.config import BudgetConfig
from sweeper.tracking.trial_record import FAILED, TrialRecord
from train.data.folders.wording import agreed, counted


def budget_exhausted(budget: BudgetConfig, records: list[TrialRecord], policy: PolicyConfig) -> str:
    """Why no further trial may begin; empty: one may."""
    spent = sum(epoch.seconds for record in records for epoch in record.epochs)
    if budget.device_hours is not None and spent >= budget.device_hours * 3600:
        return f"the {budget.device_hours:g} device hours are used"
    failed = [record for record in records if record.state == FAILED]
    if budget.max_failures is not None and len(failed) > budget.max_failures:
        return f"{counted(len(failed), 'trial')} failed, and {budget.max_failures} may"
    without_improvement = _trials_since_best(records, policy)
    if budget.patience is not None and without_improvement >= budget.patience:
        verb = agreed(without_improvement, "was", "were")
        return (
            f"the last {counted(without_improvement, 'trial')} {verb} no better than the one before"
        )
    return ""


def _trials_since_best(records: list[TrialRecord], policy: PolicyConfig) -> int:
    """How many trials have ended since the best one, in the order in which they ended."""
    finished = [record for record in records if record.finished]
    ended = sorted(finished, key=lambda record: record.ended or _last_scored(record))
    ranks = [
        select(record.scorecards, policy).rank if record.selected is not None else (False, -1e9)
        for record in ended
    ]
    return len(ranks) - 1 - ranks.index(max(ranks)) if ranks else 0


def _last_scored(record: TrialRecord) -> int:
    """When a trial was last scored, in milliseconds since 1970: its end, for old records."""
    return max((epoch.time for epoch in record.epochs), default=0)
