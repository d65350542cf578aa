"""Composes the settings of a command from conf/ and overrides, with Hydra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

import train.config.resolvers  # noqa: F401  # registers them
from train.cli import local_settings
from train.cli.arguments import normalized
from train.cli.group_choices import with_group_choices
from train.config.parsing import cause, parse_config
from train.config.ranges import format_value
from train.config.schema import CONF
from train.config.setting_kinds import kinds
from train.errors import ConfigError

Schema = TypeVar("Schema")
HYDRA_VERSION = "1.3"  # whose defaults are used


def settings(name: str, schema: type[Schema], overrides: Sequence[str] = ()) -> Schema:
    """The settings of conf/`name`.yaml with Hydra overrides, as a command gets them.

    Raises:
        ConfigError, HydraException: settings that do not exist or have the wrong type.
    """
    return parse_config(schema, composed(name, overrides))


def checked_settings(
    name: str, schema: type[Schema], check: Callable[[Schema], None], overrides: Sequence[str]
) -> Schema:
    """`settings` of overrides as a person types them, checked.

    Raises:
        ConfigError, HydraException: unknown settings, wrong types, impossible combinations.
    """
    config = settings(name, schema, normalized(overrides, kinds(schema)))
    check(config)
    return config


def composed(
    name: str, overrides: Sequence[str] = (), with_hydra: bool = False, with_local: bool = True
) -> DictConfig:
    """conf/`name`.yaml with Hydra overrides; optionally with Hydra's own settings.

    Args:
        with_local: whether conf/local.yaml applies.

    Raises:
        ConfigError: errors that Hydra itself does not expect, such as an overlong file name.
        HydraException, OmegaConfBaseException: settings that do not exist or have the wrong type.
    """
    if with_local:
        load_local_settings(name)
    else:
        local_settings.store({})
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        try:
            return compose(name, with_groups(name, overrides), return_hydra_config=with_hydra)
        except (HydraException, OmegaConfBaseException):
            raise
        except Exception as error:
            raise ConfigError(f"{format_value(' '.join(overrides))}: {cause(error)}") from None


def with_groups(name: str, overrides: Sequence[str]) -> list[str]:
    """The overrides, with the options of `base` and `data` that suit them in front.

    Only the commands that train or score have these groups; `base.path` of the others is a setting.

    Raises:
        ConfigError: an option with the path of something else.
    """
    return with_group_choices(overrides) if name in local_settings.COMMANDS else [*overrides]


def without_hydra(config: DictConfig) -> DictConfig:
    """The settings of the command without Hydra's."""
    with open_dict(config):
        del config["hydra"]
    return config


def load_local_settings(name: str) -> None:
    """Applies conf/local.yaml to everything that is composed from now on."""
    if name in local_settings.COMMANDS:
        local_settings.register_local_settings(name, CONF)


def overrides_parser() -> OverridesParser:
    """A parser that knows conf/, as `glob()` needs."""
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        return OverridesParser.create(GlobalHydra.instance().config_loader())
