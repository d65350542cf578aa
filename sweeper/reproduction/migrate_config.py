"""Logged settings, taken up by the program as it is today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from sweeper.config import SweepConfig, check_sweep
from sweeper.reproduction.received_settings import ReceivedSettings
from train.cli.group_choices import choices
from train.config.parsing import keys, suggestion, typed
from train.config.ranges import shown
from train.config.setting_kinds import literal
from train.errors import ConfigError

MAX_NAMED = 8  # unknown settings of one message


@dataclass
class MigratedConfig:
    """Settings as they are logged, in today's form.

    Attributes:
        config: to train with.
        added: key -> today's value, of settings that did not exist then.
        dropped: key -> value, of settings that do not exist any more.
    """

    config: SweepConfig
    added: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, Any] = field(default_factory=dict)


def migrate(
    received: ReceivedSettings, locations: Mapping[str, Any], force: bool = False, version: str = ""
) -> MigratedConfig:
    """The settings of a run, each of them checked; within a command, whose conf/ is used.

    Args:
        then: as logged. Of the sections in it every key is accounted for; what is not in it at
            all has today's defaults.
        places: dotted key -> where something lies now, as the person has typed it.
        force: drop settings that this version does not have.
        by: which version logged them, for the message.

    Raises:
        ConfigError: a setting that this version does not have, with the nearest that it has; or
            settings that it refuses, or that are for the person to name.
    """
    defaults = current_defaults(locations.get("base.path") or received.base_path())
    merged = received.merged_into(defaults, locations)
    if merged.dropped and not force:
        raise ConfigError(_unknown_settings_message(merged.dropped, defaults, version))
    config = typed(SweepConfig, OmegaConf.create(literal(merged.values)))
    check_sweep(config)
    return MigratedConfig(config, merged.added, merged.dropped)


def current_defaults(base: str | None) -> SweepConfig:
    """Of conf/sweep.yaml, as they are on a base (None: the embedded one)."""
    base_override = {"base.path": base} if base else {}
    options = [f"{group}={option}" for group, option in choices(base_override).items()]
    composed = compose("sweep", options)
    if base:
        OmegaConf.update(composed, "base.path", literal(base))
    return typed(SweepConfig, composed)


def _unknown_settings_message(
    dropped: Mapping[str, Any], defaults: SweepConfig, version: str
) -> str:
    known = keys(OmegaConf.create(literal(asdict(defaults))))
    listed = [
        f"{shown(key)[1:-1]}={shown(value)}{suggestion(key, known)}"
        for key, value in list(dropped.items())[:MAX_NAMED]
    ]
    more = f" and {len(dropped) - MAX_NAMED} more" if len(dropped) > MAX_NAMED else ""
    return (
        f"the run was logged by another version{version} and has settings that this one does not: "
        f"{', '.join(listed)}{more} (that version trains it as it was; force=true trains without "
        "them)"
    )
