"""Logged settings, taken up by the program as it is today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from sweeper.config import SweepConfig, check_sweep
from sweeper.reproduction.received_settings import Received
from train.cli.group_choices import choices
from train.config.parsing import dotted_keys, parse_config, suggestion
from train.config.ranges import format_value
from train.config.setting_kinds import escape_interpolations
from train.errors import ConfigError

MOST_NAMED = 8  # unknown settings of one message


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
    then: Received, places: Mapping[str, Any], force: bool = False, by: str = ""
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
    today = todays_defaults(places.get("base.path") or then.base_path())
    overlaid = then.over(today, places)
    if overlaid.dropped and not force:
        raise ConfigError(_unknown(overlaid.dropped, today, by))
    config = parse_config(SweepConfig, OmegaConf.create(escape_interpolations(overlaid.values)))
    check_sweep(config)
    return MigratedConfig(config, overlaid.added, overlaid.dropped)


def todays_defaults(base: str | None) -> SweepConfig:
    """Of conf/sweep.yaml, as they are on a base (None: the embedded one)."""
    given = {"base.path": base} if base else {}
    options = [f"{group}={option}" for group, option in choices(given).items()]
    composed = compose("sweep", options)
    if base:
        OmegaConf.update(composed, "base.path", escape_interpolations(base))
    return parse_config(SweepConfig, composed)


def _unknown(dropped: Mapping[str, Any], today: SweepConfig, by: str) -> str:
    known = dotted_keys(OmegaConf.create(escape_interpolations(asdict(today))))
    told = [
        f"{format_value(key)[1:-1]}={format_value(value)}{suggestion(key, known)}"
        for key, value in list(dropped.items())[:MOST_NAMED]
    ]
    more = f" and {len(dropped) - MOST_NAMED} more" if len(dropped) > MOST_NAMED else ""
    return (
        f"the run was logged by another version{by} and has settings that this one does not: "
        f"{', '.join(told)}{more} (that version trains it as it was; force=true trains without "
        "them)"
    )
