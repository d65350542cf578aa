"""The resolvers that the YAML files of conf/ use."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from train.config.ranges import (
    is_number,
)
from train.config.schema import EMBEDDED, is_lr_free


def _by_base(embedded: Any, real: Any, *, _root_: DictConfig) -> Any:
    return embedded if OmegaConf.select(_root_, "base.path") == EMBEDDED else real


def _by_pictures(shipped: Any, own: Any, *, _root_: DictConfig) -> Any:
    data = _root_.data
    named = data.path == EMBEDDED and data.dataset_config is None
    return shipped if named or _root_.base.path == EMBEDDED else own


def _by_optimizer(adamw: float, lion: float, *, _root_: DictConfig) -> float:
    target = str(OmegaConf.select(_root_, "optimizer._target_"))
    if is_lr_free(target):
        return 1.0
    return lion if "Lion" in target.rpartition(".")[2] else adamw


def _times(number: Any, by: float) -> str:
    """The product; what is no number stays as it is, for the check of its own key to refuse it."""
    return f"{number * by:.3g}" if is_number(number) else str(number)


# ${by_base:A,B} in a YAML is A on the embedded base and B on any other, so that
# `base.path=/my/model.safetensors` alone also moves the settings that hang on the base.
OmegaConf.register_new_resolver("by_base", _by_base, replace=True)


# ${by_pictures:A,B} is A where the pictures or the base are those that come with the program, and B
# where both are one's own.
OmegaConf.register_new_resolver("by_pictures", _by_pictures, replace=True)


# ${by_optimizer:A,B} is A for AdamW and its like and B for Lion, which wants smaller steps; 1 for
# those that find their step size themselves.
OmegaConf.register_new_resolver("by_optimizer", _by_optimizer, replace=True)


# ${times:A,F} is F times A, so that a range can follow another setting.
OmegaConf.register_new_resolver("times", _times, replace=True)
