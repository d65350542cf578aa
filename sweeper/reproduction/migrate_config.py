"""Migrates logged settings to this version of the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from sweeper.config import SweepConfig, check_sweep
from sweeper.reproduction.received_settings import ReceivedSettings
from train.cli.group_choices import choices
from train.config.parsing import dotted_keys, parse_config, suggestion
from train.config.ranges import format_value
from train.config.schema import EMBEDDED_IMAGES
from train.config.setting_kinds import escape_interpolations
from train.errors import ConfigError

MAX_NAMED = 8  # unknown settings that a message lists


@dataclass
class MigratedConfig:
    """Logged settings in the form of this version.

    Attributes:
        config: the settings to train with.
        added: key -> default, for settings that are new since the run was logged.
        dropped: key -> logged value, for settings that no longer exist.
    """

    config: SweepConfig
    added: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, Any] = field(default_factory=dict)


def migrate(
    received: ReceivedSettings, locations: Mapping[str, Any], force: bool = False, version: str = ""
) -> MigratedConfig:
    """Migrates and checks the settings of a run. Needs Hydra's conf/ to be initialized.

    Args:
        received: the logged settings. In the sections that they contain, every key is accounted
            for; other sections get the current defaults.
        locations: dotted key -> current location, as typed by the person.
        force: whether to drop settings that this version does not have.
        version: the version that logged them, for the error message.

    Raises:
        ConfigError: this version does not have a setting (suggesting a similar one) or rejects
            its value, or a person must type it.
    """
    images = locations.get("data.path") or received.text("data", "path")
    defaults = current_defaults(locations.get("base.path") or received.base_path(), images)
    merged = received.merged_into(defaults, locations)
    if merged.dropped and not force:
        raise ConfigError(_unknown_settings_message(merged.dropped, defaults, version))
    config = parse_config(SweepConfig, OmegaConf.create(escape_interpolations(merged.values)))
    check_sweep(config)
    return MigratedConfig(config, merged.added, merged.dropped)


def current_defaults(base: str | None, images: str | None = None) -> SweepConfig:
    """The defaults of conf/sweep.yaml for a base (None: the embedded one) and embedded images."""
    overrides = {"base.path": base} if base else {}
    if images in EMBEDDED_IMAGES:
        overrides["data.path"] = images
    options = [f"{group}={option}" for group, option in choices(overrides).items()]
    composed = compose("sweep", options)
    if base:
        OmegaConf.update(composed, "base.path", escape_interpolations(base))
    return parse_config(SweepConfig, composed)


def _unknown_settings_message(
    dropped: Mapping[str, Any], defaults: SweepConfig, version: str
) -> str:
    known_keys = dotted_keys(OmegaConf.create(escape_interpolations(asdict(defaults))))
    listed = [
        f"{format_value(key)[1:-1]}={format_value(value)}{suggestion(key, known_keys)}"
        for key, value in list(dropped.items())[:MAX_NAMED]
    ]
    hidden = f" and {len(dropped) - MAX_NAMED} more" if len(dropped) > MAX_NAMED else ""
    return (
        f"the run was logged by another version{version} and has settings that this one does not: "
        f"{', '.join(listed)}{hidden} (use that version, or force=true to train without them)"
    )
