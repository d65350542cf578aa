"""Checks the optimizer in settings from a file or a store: which class it may name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.cli.arguments import ALLOW_CLASS
from train.config.class_arguments import TARGET, nested_targets
from train.config.optimizer_arguments import check_optimizer
from train.config.ranges import format_value
from train.errors import ConfigError
from train.files.permissions import is_allowed_class
from train.kohya.optimizer_names import ALLOWED_CLASSES
from train.text.shell import in_setting


def check_received_optimizer(optimizer: Mapping[str, Any]) -> None:
    """Checks an optimizer from a file or a store, without importing its module.

    Args:
        optimizer: see `train.config.optimizer_arguments.check_optimizer`, which also checks it.

    Raises:
        ConfigError: its class neither ships with the program nor is allowed by name.
    """
    target = optimizer.get(TARGET)
    arguments = {key: value for key, value in optimizer.items() if key != TARGET}
    for inner in nested_targets("optimizer", arguments):
        raise ConfigError(f"{inner}: an optimizer's argument from a file cannot be a class")
    check_optimizer(optimizer)
    if target not in ALLOWED_CLASSES and not is_allowed_class(str(target)):
        raise ConfigError(
            f"optimizer.{TARGET}: a file may not choose which code is imported, and "
            f"{format_value(target)} does not ship with this program; if you trust it, add "
            f"{in_setting(ALLOW_CLASS, target)}"
        )
