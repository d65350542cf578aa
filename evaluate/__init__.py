"""LoRA files -> scorecards."""

from typing import TYPE_CHECKING

from train.lazy_names import lazy_names

if TYPE_CHECKING:
    from evaluate.config import EvaluateConfig
    from evaluate.library import evaluate_settings, load_scorer
    from evaluate.scorecard import Scorecard
    from evaluate.scorer import Scorer
    from evaluate.selection.diagnosis import diagnose
    from evaluate.selection.policy import select

__all__ = [
    "EvaluateConfig",
    "Scorecard",
    "Scorer",
    "diagnose",
    "evaluate_settings",
    "load_scorer",
    "select",
]
__getattr__ = lazy_names(
    __name__,
    {
        "EvaluateConfig": "evaluate.config",
        "Scorecard": "evaluate.scorecard",
        "Scorer": "evaluate.scorer",
        "diagnose": "evaluate.selection.diagnosis",
        "evaluate_settings": "evaluate.library",
        "load_scorer": "evaluate.library",
        "select": "evaluate.selection.policy",
    },
)
