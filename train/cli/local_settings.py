"""conf/local.yaml: the user's own defaults, for all commands that train or score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from train.cli.group_choices import choices
from train.config.flattening import flatten
from train.config.renamed_keys import check_renamed, renamed
from train.config.schema import LOCAL_SETTINGS
from train.errors import ConfigError
from train.files.untrusted import Tree, UntrustedFileError, parse_yaml, read_text

FILE = "local.yaml"
COMMANDS = ("train", "sweep", "evaluate")
MAX_BYTES = 64_000  # a person's own few lines; Hydra takes 10 s for a list that fills them


def register_local_settings(command: str, conf: Path) -> None:
    """Registers the keys of conf/local.yaml that this command understands.

    Keys that no command understands are passed on too, so that Hydra rejects them.

    Raises:
        ConfigError: the file is not a YAML file of settings.
    """
    if not (given := read_local_settings(conf)):
        store({})
        return
    groups, keys = _groups_and_keys(command, conf)
    known = set().union(*(part for name in COMMANDS for part in _groups_and_keys(name, conf)))
    group_options = choices({key: str(value) for key, value in flatten(given).items() if value})
    node: dict[str, Any] = {
        "defaults": [{f"override /{key}": group_options[key]} for key in group_options]
    }
    for key, value in given.items():
        if key in groups and isinstance(value, str):
            node["defaults"].append({f"override /{key}": value})  # optimizer: lion
        elif key in groups | keys or key not in known:
            node[key] = value
    store(node)


def store(node: dict[str, Any]) -> None:
    """Registers the settings, in Hydra's form, that everything composed from now on gets."""
    ConfigStore.instance().store(LOCAL_SETTINGS, node)


def has_setting(key: str, conf: Path) -> bool:
    """Whether a dotted setting is in the file."""
    node: Any = read_local_settings(conf)
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def read_local_settings(conf: Path) -> Tree:
    """The content of the file; empty if there is none.

    Raises:
        ConfigError: it is not a file, or not a YAML file of settings.
    """
    file = conf / FILE
    if not file.exists():
        return {}
    try:
        text = read_text(file, MAX_BYTES)
        lines = (line.strip() for line in text.splitlines())
        has_settings = any(line and not line.startswith("#") for line in lines)
        given = parse_yaml(text, Tree, FILE) if has_settings else {}
    except UntrustedFileError as error:
        raise ConfigError(
            f"conf/{FILE}: must hold settings, as `data: {{trigger: sks person}}` ({error})"
        ) from None
    if "defaults" in given:
        raise ConfigError(
            f"conf/{FILE}: defaults: there is no such setting; type an option as `optimizer: lion`"
        )
    try:
        flat = {key: "" if value is None else str(value) for key, value in flatten(given).items()}
        check_renamed(flat.items(), {new.key for key in flat if (new := renamed(key))})
    except ConfigError as error:
        raise ConfigError(f"conf/{FILE}: {error}") from None
    return given


def _groups_and_keys(command: str, conf: Path) -> tuple[set[str], set[str]]:
    """The groups and the other top-level keys of a command's config; only sweep has hydra."""
    content = yaml.safe_load((conf / f"{command}.yaml").read_text(encoding="utf-8"))
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    groups = {group for entry in entries for group in entry if " " not in group}
    return groups, content.keys() - {"defaults", *(["hydra"] if command != "sweep" else [])}
