"""LoRA files -> scorecards."""

import importlib
from typing import TYPE_CHECKING, Any

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
# name -> its module, imported on first use, so that settings are checked without torch
_MODULES = {
    "EvaluateConfig": "evaluate.config",
    "Scorecard": "evaluate.scorecard",
    "Scorer": "evaluate.scorer",
    "diagnose": "evaluate.selection.diagnosis",
    "evaluate_settings": "evaluate.library",
    "load_scorer": "evaluate.library",
    "select": "evaluate.selection.policy",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
