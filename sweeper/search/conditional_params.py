"""Conditional settings: they have an effect, and are searched, only for some values of another
setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """When a setting has an effect.

    Attributes:
        parents: the names of its parent setting, which may be searched under any of them.
        is_met: whether the setting has an effect, given its parent's value.
    """

    parents: tuple[str, ...]
    is_met: Callable[[Any], bool]


SCHEDULER_KEYS = ("scheduler", "scheduler.name")
IF_NOT_CONSTANT = Condition(SCHEDULER_KEYS, lambda name: name != "constant")
# schedulers whose learning rate does not fall to 0
NONZERO_MIN_LR = ("cosine_with_min_lr", "warmup_stable_decay")
RESTARTING = ("cosine_with_restarts", "cosine_with_restarting", *NONZERO_MIN_LR)
LR_FREE = ("prodigy", "dadaptation")  # options of conf/optimizer whose lr is 1
CONDITIONS = {
    "network.conv_alpha": Condition(("network.conv_rank",), lambda rank: rank > 0),
    "training.text_encoder_lr": Condition(("network.text_encoder",), bool),
    "optimizer.lr": Condition(("optimizer",), lambda name: name not in LR_FREE),
    "scheduler.warmup_ratio": IF_NOT_CONSTANT,
    "scheduler.warmup_steps": IF_NOT_CONSTANT,
    "scheduler.warmup_epochs": IF_NOT_CONSTANT,
    "scheduler.num_cycles": Condition(SCHEDULER_KEYS, lambda name: name in RESTARTING),
    "scheduler.power": Condition(SCHEDULER_KEYS, lambda name: name == "polynomial"),
    "scheduler.decay_ratio": Condition(SCHEDULER_KEYS, lambda name: name == "warmup_stable_decay"),
    "scheduler.min_lr_ratio": Condition(SCHEDULER_KEYS, lambda name: name in NONZERO_MIN_LR),
}
PARENT_KEYS = tuple(
    dict.fromkeys(parent for condition in CONDITIONS.values() for parent in condition.parents)
)


def parent_of(key: str, searched: Mapping[str, Any]) -> str | None:
    """The searched setting that `key` depends on; None if it always has an effect."""
    condition = CONDITIONS.get(key)
    parents = condition.parents if condition else ()
    return next((name for name in parents if name in searched), None)


def is_active(key: str, params: Mapping[str, Any]) -> bool:
    """Whether a setting has an effect, given the values of the others."""
    parent = parent_of(key, params)
    return parent is None or CONDITIONS[key].is_met(params[parent])
