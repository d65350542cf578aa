"""Scoring as functions, for notebooks and scripts; listed in `evaluate/__init__.py`."""

from __future__ import annotations

from pathlib import Path

from evaluate.config import EvaluateConfig, check_evaluate
from evaluate.files_check import check_files
from evaluate.scorer import Scorer
from train.cli.compose import checked_settings
from train.data.dataset import Dataset, load_dataset
from train.models.base_model import BaseModel, load_base


def evaluate_settings(*overrides: str) -> EvaluateConfig:
    """The settings of scoring: conf/evaluate.yaml with overrides as on the command line.

    Raises:
        ConfigError, HydraException: unknown settings, wrong types, impossible combinations.

    Example:
        >>> evaluate_settings("probes=small").probes.count
        16
    """
    return checked_settings("evaluate", EvaluateConfig, check_evaluate, overrides)


def load_scorer(
    config: EvaluateConfig, base: BaseModel | None = None, dataset: Dataset | None = None
) -> Scorer:
    """Everything that scoring needs, loaded once.

    The result is called with `{path of a LoRA file: its epoch}` and returns a `Scorecard` for each.

    Args:
        base: as `load_base(config.base)` returns it, if it is loaded already.
        dataset: the training images, as `load_dataset(config.data)` returns them.

    Raises:
        DataError, BaseError: the images or the base cannot be used.
        ConfigError: a CLIP model, a pose detector or a probe file is not available.

    Example:
        >>> scorer = load_scorer(evaluate_settings("probes.count=8", "scores.baseline=1"))
        >>> len(scorer.probe_set.probes), "pose_memorization" in scorer.names
        (8, True)
    """
    check_files(config.probes, config.scores)
    base = base or load_base(config.base)
    dataset = dataset or load_dataset(config.data)
    cache = Path(config.root) / "cache"
    return Scorer(base, dataset, config.data, config.probes, config.scores, cache)
