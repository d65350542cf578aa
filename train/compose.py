"""The settings of a command, composed by Hydra from conf/ and from overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from train import local
from train.config import CONF, typed

Schema = TypeVar("Schema")
HYDRA_VERSION = "1.3"  # whose defaults Hydra takes


def settings(name: str, schema: type[Schema], overrides: Sequence[str] = ()) -> Schema:
    """The settings of conf/`name`.yaml with Hydra overrides, as a command gets them.

    Raises:
        ConfigError, HydraException: settings that do not exist or have the wrong type.
    """
    return typed(schema, composed(name, overrides))


def composed(name: str, overrides: Sequence[str] = (), with_hydra: bool = False) -> DictConfig:
    """conf/`name`.yaml with Hydra overrides; with Hydra's own settings too, if these are wanted."""
    load_local_defaults(name)
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        return compose(name, list(overrides), return_hydra_config=with_hydra)


def load_local_defaults(name: str) -> None:
    """Puts what conf/local.yaml says into everything that is composed from now on."""
    if name in local.COMMANDS:
        local.take_in(name, CONF)


def overrides_parser() -> OverridesParser:
    """A parser that knows conf/, which `glob()` looks at."""
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        return OverridesParser.create(GlobalHydra.instance().config_loader())
