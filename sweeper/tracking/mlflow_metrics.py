"""The metrics that are logged to MLflow: for every scored epoch, and for the study."""

from __future__ import annotations

from mlflow.entities import Metric

from evaluate.config import PolicyConfig
from evaluate.selection.policy import select
from evaluate.tracking.mlflow_store import score_metrics
from sweeper.tracking.trial_record import ScoredEpoch, TrialRecord


def epoch_metrics(epoch: ScoredEpoch) -> list[Metric]:
    """All metrics of an epoch, with the epoch as their step."""
    figures: dict[str, float | None] = {
        "train/loss": epoch.train_loss,
        "train/lr": epoch.lr,
        "train/lr_text_encoder": epoch.lr_text_encoder,
        "system/training_seconds": epoch.seconds_training,
        "system/scoring_seconds": epoch.seconds_scoring,
        "system/training_images_per_second": _rate(epoch.pictures, epoch.seconds_training),
        "system/probe_images_per_second": _rate(epoch.probes, epoch.seconds_scoring),
        "system/peak_memory_gigabytes": epoch.memory or None,
    }
    step = epoch.scorecard.epoch
    training_metrics = [
        Metric(name, value, epoch.time, step)
        for name, value in figures.items()
        if value is not None
    ]
    return score_metrics(epoch.scorecard, epoch.time) + training_metrics


def study_metrics(
    records: list[TrialRecord], ended: TrialRecord, policy: PolicyConfig
) -> list[Metric]:
    """The study's metrics after a trial has ended: its fidelity, and the best fidelity so far."""
    time = ended.epochs[-1].time
    selections = [
        select(record.scorecards, policy)
        for record in records
        if record.selected is not None
        and (record.epochs[-1].time, record.number) <= (time, ended.number)
    ]
    best, selection = max(selections, key=lambda s: s.rank), select(ended.scorecards, policy)
    figures = (("study/fidelity_by_trial", selection.fidelity, ended.number),
               ("study/best_fidelity_by_trials", best.fidelity, len(selections)))  # fmt: skip
    return [Metric(name, value, time, step) for name, value, step in figures if value is not None]


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count and seconds else None
