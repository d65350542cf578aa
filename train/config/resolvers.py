"""The resolvers in the YAML files of conf/."""

from __future__ import annotations

from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from train.config.ranges import is_number
from train.config.schema import is_lr_free

# groups that follow from others, and Hydra's own, which a person does not select
INTERNAL_GROUPS = ("base/", "hydra/")
MAX_COUNT = 1e15  # a larger number is not a count, and the check of its key rejects it


def _by_optimizer(adamw: float, lion: float, *, _root_: DictConfig) -> float:
    target = str(OmegaConf.select(_root_, "optimizer._target_"))
    if is_lr_free(target):
        return 1.0
    return lion if "Lion" in target.rpartition(".")[2] else adamw


def _times(number: Any, factor: float) -> str:
    """The product. Anything but a number is returned as it is: the check of its key rejects it."""
    return f"{number * factor:.3g}" if is_number(number) else str(number)


def _share(number: Any, share: float) -> Any:
    """A share of a count, rounded, at least 1; see `_times` for anything but a count."""
    countable = is_number(number) and abs(number) < MAX_COUNT
    return max(1, round(number * share)) if countable else number


def command_groups(choices: DictConfig) -> list[str]:
    """The groups that a person selects, in the order of the command's defaults.

    Args:
        choices: `hydra.runtime.choices`, where the last group comes first.
    """
    return [str(name) for name in choices if not str(name).startswith(INTERNAL_GROUPS)][::-1]


def _command_groups(*, _root_: DictConfig) -> str:
    options = GlobalHydra.instance().config_loader().get_group_options
    groups = command_groups(_root_.hydra.runtime.choices)
    return "\n".join(f"{name}: {', '.join(options(name))}" for name in groups)


# ${by_optimizer:A,B} is A for AdamW and similar optimizers, B for Lion, which needs smaller steps,
# and 1 for those that estimate their own step size.
OmegaConf.register_new_resolver("by_optimizer", _by_optimizer, replace=True)


# ${times:A,F} is F times A, so that a range can follow another setting.
OmegaConf.register_new_resolver("times", _times, replace=True)


# ${share:N,F} is F times N as an integer, at least 1.
OmegaConf.register_new_resolver("share", _share, replace=True)


# ${command_groups:} lists the groups of a command with their options, for its --help.
OmegaConf.register_new_resolver("command_groups", _command_groups, replace=True)
