"""Settings that mean something only beside another: they are searched where they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """What must hold for a setting to mean something.

    Attributes:
        on: the setting that decides, under the names that it may be searched by.
        holds: of its value.
    """

    on: tuple[str, ...]
    holds: Callable[[Any], bool]


SCHEDULER = ("scheduler", "scheduler.name")
WARMED = Condition(SCHEDULER, lambda name: name != "constant")
LOWEST = ("cosine_with_min_lr", "warmup_stable_decay")  # these do not fall to 0
CYCLES = ("cosine_with_restarts", "cosine_with_restarting", *LOWEST)
LR_FREE = ("prodigy", "dadaptation")  # options of conf/optimizer whose lr is 1
CONDITIONS = {
    "network.conv_alpha": Condition(("network.conv_rank",), lambda rank: rank > 0),
    "training.text_encoder_lr": Condition(("network.text_encoder",), bool),
    "optimizer.lr": Condition(("optimizer",), lambda name: name not in LR_FREE),
    "scheduler.warmup_ratio": WARMED,
    "scheduler.warmup_steps": WARMED,
    "scheduler.warmup_epochs": WARMED,
    "scheduler.num_cycles": Condition(SCHEDULER, lambda name: name in CYCLES),
    "scheduler.power": Condition(SCHEDULER, lambda name: name == "polynomial"),
    "scheduler.decay_ratio": Condition(SCHEDULER, lambda name: name == "warmup_stable_decay"),
    "scheduler.min_lr_ratio": Condition(SCHEDULER, lambda name: name in LOWEST),
}
DECIDING = tuple(dict.fromkeys(on for condition in CONDITIONS.values() for on in condition.on))


def parent_of(key: str, searched: Mapping[str, Any]) -> str | None:
    """The one of these settings that `key` hangs on; None where it always means something."""
    condition = CONDITIONS.get(key)
    names = condition.on if condition else ()
    return next((name for name in names if name in searched), None)


def is_active(key: str, params: Mapping[str, Any]) -> bool:
    """Whether a setting means something beside these others."""
    on = parent_of(key, params)
    return on is None or CONDITIONS[key].holds(params[on])
