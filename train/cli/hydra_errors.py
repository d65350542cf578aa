"""Turns Hydra's errors about a wrong setting into one line with a suggestion."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train.cli import local_settings
from train.cli.compose import composed, overrides_parser
from train.config.flattening import flatten
from train.config.parsing import cause, dotted_keys, suggestion
from train.config.ranges import NAMES, format_value
from train.config.resolvers import command_groups
from train.config.schema import CONF

INTERNAL = ("hydra", "pruner", "search")  # of two settings with the same name, users mean the other
MAX_CHARACTERS = 500  # characters of a message of Hydra's
MAX_SUGGESTIONS = 3  # settings of one suggestion
# kohya's names, and other names that users expect
KOHYA_NAMES = {
    "pretrained_model_name_or_path": "base.path",
    "train_data_dir": "data.path",
    "reg_data_dir": "data.regularization_path",
    "output_dir": "output",
    "output_name": "name",
    "network_dim": "network.rank",
    "network_alpha": "network.alpha",
    "learning_rate": "optimizer.lr",
    "unet_lr": "optimizer.lr",
    "train_batch_size": "training.batch_size",
    "max_train_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "max_train_steps": "training.max_steps",
    "save_every_n_epochs": "training.save_every",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "lr_scheduler": "scheduler",
    "optimizer_type": "optimizer",
    "mixed_precision": "base.precision",
    "flip_aug": "data.flip",
    "enable_bucket": "data.buckets",
}
SEARCH_PATH = "hydra.searchpath"  # where --config-dir is looked for
SEARCH = "search."  # whose keys are those of other settings, dots and all


def explain(name: str, error: Exception, overrides: Sequence[str], schema: Any = None) -> str:
    """Why Hydra cannot compose a config, in one line, with the nearest valid key or option.

    Args:
        name: of the config in conf/.
        overrides: with which it cannot be composed; none of them is a sweep.
        schema: the dataclass that the config must fit.
    """
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if "/" in group and not option:  # as completion of a folder's name leaves it: data=puppets/
            group, _, option = group.rpartition("/")
            option += "/"
        hint = suggestion(option, list(error.options))
        return f"{group}: {format_value(option)} is not one of {', '.join(error.options)}{hint}"
    message = textwrap.shorten(f"{error} {error.__cause__ or ''}", MAX_CHARACTERS)
    try:
        config, groups, parsed = _lookup(name, overrides)
    except (HydraException, OmegaConfBaseException):  # the files are wrong, conf/local.yaml or so
        return _wrong_local(name) or message
    known = dotted_keys(config)
    for override in parsed:
        if override.key_or_group in groups:
            wrong = _wrong_group(override, config.hydra.runtime.choices, known)
        else:
            wrong = _wrong_key(override, config, known, schema)
        if wrong:
            return wrong
    reason = error.__cause__ or error
    if isinstance(reason, OmegaConfBaseException) and reason.full_key:
        return f"{reason.full_key}: {textwrap.shorten(cause(reason), MAX_CHARACTERS)}"
    return message


def _wrong_local(name: str) -> str:
    """The message for a list in conf/local.yaml in place of a group; empty if there is none."""
    config = composed(name, with_hydra=True, with_local=False)
    for key, value in flatten(local_settings.read_local_settings(CONF)).items():
        group = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        if isinstance(value, list) and isinstance(group, DictConfig):
            inside = f"such as {key}.{next(iter(map(str, group)))}" if group else "and has none"
            return (
                f"conf/{local_settings.FILE}: {key}: a list cannot be; it is a group of settings, "
                f"{inside}"
            )
    return ""


def _lookup(name: str, overrides: Sequence[str]) -> tuple[DictConfig, set[str], list[Override]]:
    """The config with the chosen options of groups only, the overridden groups, and the overrides.

    An option brings settings of its own, which can then be overridden. Where it is an option that
    is wrong, the config is that of the defaults.
    """
    parser = overrides_parser()
    parsed = parser.parse_overrides([*overrides])
    path = [line for line in overrides if line.startswith(SEARCH_PATH)]
    assert parser.config_loader
    options = parser.config_loader.get_group_options
    overridden = {override.key_or_group for override in parsed}
    groups = {key for key in overridden if options(key, overrides=path)}
    lines = zip(overrides, parsed, strict=True)
    group_overrides = [line for line, override in lines if override.key_or_group in groups]
    try:
        return composed(name, (*group_overrides, *path), with_hydra=True), groups, parsed
    except HydraException:
        return composed(name, with_hydra=True), groups, parsed


def _wrong_group(override: Override, choices: DictConfig, known: Sequence[str]) -> str:
    """What is wrong with the choice of an option that exists; empty if nothing is, or Hydra has
    the words."""
    key = override.get_key_element()
    if override.is_add() or override.is_force_add() or override.is_delete() or key in choices:
        return ""
    if key in known:  # a group of other commands
        return f"{key}: this cannot be set on the command line"
    own = command_groups(choices)
    known = f"no such group; it has {', '.join(own)}" if own else "no groups"
    return f"{key}: this command has {known}"


def _wrong_key(override: Override, config: DictConfig, known: Sequence[str], schema: Any) -> str:
    """What is wrong with an override of settings; empty if nothing is, or Hydra has the words."""
    key, value = override.key_or_group, override.value()
    adds = override.is_add() or override.is_force_add()
    swept = key.removeprefix(SEARCH)
    if swept != key and not adds and ("." in swept or key not in known):
        return f"{key}: settings to search are typed without search., as in -m {swept}=1,2"
    current = _node(config, key, known)
    if override.is_add() and current is not None and not isinstance(value, dict | list):
        return f"+{key}: is already a setting; type it without +"
    if override.is_delete() and current is not None and value not in (None, current):
        return f"~{key}: has another value, so it is not removed"
    if adds or override.package is not None:
        return ""
    missing = next(_missing(key, value, config, known), None)
    if missing is None:
        return ""
    if names := entries(schema, missing.rpartition(".")[0]):
        return _entry_message(missing, names)
    return f"{missing}: there is no such setting{suggest_setting(missing, known)}"


def _missing(key: str, value: Any, config: DictConfig, known: Sequence[str]) -> Iterator[str]:
    """The unknown settings that an override names: its key, or those in a value with braces."""
    if key not in known:
        if not isinstance(_node(config, key.rpartition(".")[0], known), ListConfig):
            yield key
    elif isinstance(value, dict) and isinstance(_node(config, key, known), DictConfig):
        for name, inner in value.items():
            yield from _missing(f"{key}.{name}", inner, config, known)


def _node(config: DictConfig, key: str, known: Sequence[str]) -> Any:
    """A setting's value; None if it has none."""
    if key not in known:
        return None
    return OmegaConf.select(config, key, throw_on_resolution_failure=False)


def entries(schema: Any, key: str) -> Sequence[str]:
    """The valid names of a setting with entries; empty if they are free."""
    *groups, last = key.split(".")
    for group in groups:
        schema = get_type_hints(schema).get(group) if is_dataclass(schema) else None
    known = fields(schema) if is_dataclass(schema) else ()
    return next((one.metadata.get(NAMES, ()) for one in known if one.name == last), ())


def _entry_message(key: str, names: Sequence[str]) -> str:
    """The message for an entry that the config does not have."""
    setting, _, entry = key.rpartition(".")
    if entry in names:
        return f"{key}: is not set in this config; type +{key}=... to add it"
    hint = suggestion(entry, [*names]) or f"; known: {', '.join(names)}"
    return f"{key}: there is no {entry} for {setting}{hint}"


def suggest_setting(key: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the settings that the user may have meant, or an empty text.

    Settings with the same last part come first, then those with a similar last part; Hydra's own
    and those of a search only if there are no others.
    """
    last = key.rpartition(".")[2]
    if KOHYA_NAMES.get(last) in known:
        return f"; did you mean {KOHYA_NAMES[last]}?"
    parts = {name: name.rpartition(".")[2] for name in known}
    similar = difflib.get_close_matches(last, [*dict.fromkeys(parts.values())], n=1, cutoff=0.75)
    for last_parts in ([last], similar):
        matches = [name for name, part in parts.items() if part in last_parts]
        matches = [name for name in matches if not name.startswith(INTERNAL)] or matches
        if matches:
            return f"; did you mean {' or '.join(matches[:MAX_SUGGESTIONS])}?"
    # of Hydra's own settings, people mean those of the search
    likely = [k for k in known if not k.startswith("hydra.") or k.startswith("hydra.sweeper.n")]
    return suggestion(key, list(known) if key.startswith("hydra") else likely)
