"""Checks of settings that need torch: whether the device exists and the optimizer can be built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch

from train.config.class_arguments import TARGET, find_class
from train.config.parsing import cause, suggestion
from train.config.schema import BaseConfig, TrialConfig
from train.errors import ConfigError


def check_device(base: BaseConfig) -> None:
    """Rejects a device that this machine does not have.

    Raises:
        ConfigError: naming base.device.
    """
    if base.device == "auto":
        return
    try:
        torch.empty(1, device=base.device)
    except Exception as error:  # each backend has its own kind
        raise ConfigError(
            f"base.device: {base.device} is not available on this machine ({cause(error)}); "
            "auto takes what is available"
        ) from None


def check_construction(config: TrialConfig) -> None:
    """Rejects a trial's device or optimizer if this machine cannot create it; loads no model.

    Raises:
        ConfigError: naming the setting.
    """
    check_device(config.base)
    optimizer_class(config.optimizer)


def optimizer_class(optimizer: Mapping[str, Any]) -> type:
    """The class of an optimizer, after building one with these settings as a check.

    Raises:
        ConfigError: there is no such class, or it rejects its settings.
    """
    target = str(optimizer[TARGET])
    cls = find_class("optimizer", target, torch.optim.Optimizer)
    arguments = {key: value for key, value in optimizer.items() if key != TARGET}
    accepted = inspect.signature(cls).parameters
    for key in arguments:
        if key not in accepted:
            raise ConfigError(
                f"optimizer.{key}: {cls.__name__} has no such "
                f"argument{suggestion(key, list(accepted))}"
            )
    try:
        with redirect_stdout(StringIO()):  # some print a banner
            cls([torch.nn.Parameter(torch.zeros(1))], **arguments)
    except Exception as error:
        raise ConfigError(
            f"optimizer: {cls.__name__} refuses its settings: {cause(error)}"
        ) from None
    return cls
