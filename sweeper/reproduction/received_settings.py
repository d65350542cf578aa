"""Settings from a file or a store. Each is accepted only as far as its kind allows.

Received settings may determine how a LoRA is trained. Which files are read, loaded or imported is
chosen by the person at the keyboard (train/files/permissions.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import MISSING

from sweeper.config import SweepConfig
from sweeper.reproduction.received_optimizer import check_received_optimizer
from train.cli.arguments import ALLOW_PATH
from train.config.flattening import flatten
from train.config.ranges import format_value
from train.config.renamed_keys import migrate_keys
from train.config.schema import EMBEDDED, EMBEDDED_IMAGES
from train.config.setting_kinds import LOCAL, Kind, kind_of
from train.errors import ConfigError
from train.files.paths import expanded
from train.files.permissions import is_foreign, may_read
from train.files.untrusted import Tree, check_regular, convert
from train.models.model_files import INDEX, WEIGHTS, BaseError, fingerprint, weight_files
from train.text.display import shortened
from train.text.shell import in_setting

# settings of a search, which are ignored when one of its trials is retrained
SEARCH_GROUPS = ("study", "search", "pruner", "pack")
# path settings that may have the names of embedded images, or of the attributes that belong to them
EMBEDDED_VALUES = dict.fromkeys(("data.path", "probes.attributes"), EMBEDDED_IMAGES)


@dataclass(frozen=True)
class ReceivedSettings:
    """Untrusted settings from a file or a store.

    Attributes:
        settings: nested plain values.
        base: fingerprint of the base that they were used with; empty if unknown.
    """

    settings: Tree
    base: str = ""

    @classmethod
    def of(cls, content: object, name: str, base: str = "") -> ReceivedSettings:
        """Builds received settings from plain values.

        Args:
            name: the source, for the error message.

        Raises:
            UntrustedFileError: not a mapping of plain values, or nested too deeply.
        """
        return cls(migrate_keys(convert(content, Tree, name)), base)

    def text(self, group: str, name: str) -> str | None:
        """A text setting, to display or compare; None if there is none."""
        values = self.settings.get(group)
        value = values.get(name) if isinstance(values, Mapping) else None
        return value if isinstance(value, str) else None

    def base_path(self) -> str | None:
        """The base that the settings name; None if they name none.

        Raises:
            ConfigError: a file may not name this base, so the person must.
        """
        group = self.settings.get("base")
        if not isinstance(group, Mapping) or group.get("path") is None:
            return None
        path = _text("base.path", group["path"])
        if path == EMBEDDED or _is_base(path, self.base):
            return path
        raise _refusal("base.path", path, Kind.MODEL)

    def merged_into(self, defaults: SweepConfig, typed: Mapping[str, Any]) -> MergedSettings:
        """Merges the received settings into the current defaults. Free-form groups are replaced.

        Args:
            defaults: the defaults for the base that is used.
            typed: dotted key -> value typed by the person, which takes precedence.

        Raises:
            ConfigError: a setting that a file may not set, or whose value is invalid.
        """
        result = MergedSettings({})
        received = {
            name: value for name, value in self.settings.items() if name not in SEARCH_GROUPS
        }
        result.values = _overlay(defaults, received, "", typed, result)
        sections = set(received)
        result.added = {k: v for k, v in result.added.items() if k.split(".")[0] in sections}
        return result


@dataclass
class MergedSettings:
    """Received settings merged into the current defaults.

    Attributes:
        values: nested settings.
        added: key -> default, for settings that are new since they were logged.
        dropped: key -> logged value, for settings that no longer exist.
    """

    values: dict[str, Any]
    added: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, Any] = field(default_factory=dict)


def _overlay(
    defaults: Any,
    received: Mapping[str, Any],
    prefix: str,
    typed: Mapping[str, Any],
    result: MergedSettings,
) -> dict[str, Any]:
    values, default_values, hints = {}, asdict(defaults), get_type_hints(type(defaults))
    for setting in fields(defaults):
        key, default = f"{prefix}{setting.name}", getattr(defaults, setting.name)
        if key in typed:
            values[setting.name] = typed[key]
        elif setting.metadata.get(LOCAL) or (not prefix and setting.name in SEARCH_GROUPS):
            values[setting.name] = default_values[setting.name]
        elif setting.name not in received:
            values[setting.name] = default_values[setting.name]
            result.added |= flatten({key: default_values[setting.name]})
        elif is_dataclass(default):
            within = _mapping(key, received[setting.name], f"{key}.{fields(default)[0].name}")
            values[setting.name] = _overlay(default, within, f"{key}.", typed, result)
        else:
            kind = kind_of(setting, hints[setting.name])
            values[setting.name] = RULES[kind](key, received[setting.name], default)
    unknown = received.keys() - {setting.name for setting in fields(defaults)}
    result.dropped |= {f"{prefix}{name}": received[name] for name in received if name in unknown}
    return values


def _accept(key: str, value: Any, default: Any) -> Any:
    """Accepts any value: types, ranges and choices are checked with the whole config."""
    if value == MISSING:  # OmegaConf would silently use the default
        raise ConfigError(f"{key}: ??? stands for a missing value")
    return value


def _accept_path(key: str, value: Any, default: Any) -> Any:
    if value is None or _text(key, value) in (default, *EMBEDDED_VALUES.get(key, ()), ""):
        return value
    if not is_foreign(value) and may_read(expanded(value)):
        return value
    raise _refusal(key, value, Kind.PATH)


def _accept_model(key: str, value: Any, default: Any) -> Any:
    if key == "base.path":  # checked by `base_path`, and the defaults contain it
        return default
    if value is None or _text(key, value) in (default, EMBEDDED):
        return value
    raise _refusal(key, value, Kind.MODEL)


def _accept_class(key: str, value: Any, default: Any) -> Any:
    check_received_optimizer(settings := _mapping(key, value, f"{key}._target_"))
    return settings


def _use_default(key: str, value: Any, default: Any) -> Any:
    return default


RULES: dict[Kind, Callable[[str, Any, Any], Any]] = {
    Kind.NUMBER: _accept,
    Kind.NUMBERS: _accept,
    Kind.MAPPING: _accept,
    Kind.CHOICE: _accept,
    Kind.TEXT: _accept,
    Kind.PATH: _accept_path,
    Kind.MODEL: _accept_model,
    Kind.CLASS: _accept_class,
    Kind.ADDRESS: _use_default,
    Kind.SETTINGS: _use_default,
}


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key}: {format_value(value)} must be a text")
    return value


def _mapping(key: str, value: Any, example: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{key}: {format_value(value)} must be a group of settings, such as {example}"
        )
    return value


def _is_base(path: str, logged_fingerprint: str) -> bool:
    """Whether a path contains a base that the person has named, or one with the logged weights."""
    if is_foreign(path):
        return False
    try:
        source = expanded(path)
        if source.exists() and may_read(source):
            return True
        if source.is_dir() and not (source / INDEX).is_file():
            return False  # a folder of other files, which may be huge
        if not logged_fingerprint or (not source.is_dir() and source.suffix != WEIGHTS):
            return False
        files = weight_files(source)
        for file in files:
            check_regular(file)
        return fingerprint(files, source) == logged_fingerprint
    except (BaseError, OSError, ValueError):
        return False


def _refusal(key: str, value: str, kind: Kind) -> ConfigError:
    """The error for a setting that a file may not set; it says what to type instead."""
    argument = in_setting(key, value)
    if kind is Kind.MODEL:
        return ConfigError(
            f"{key}: the run used {shortened(value)}, but a file may not choose which model is "
            f"loaded; if you trust it, type {argument}, or its current location"
        )
    folder = in_setting(ALLOW_PATH, value)
    alternative = (
        f", or {folder}" if Path(value).is_absolute() and folder != f"{ALLOW_PATH}=" else ""
    )
    return ConfigError(
        f"{key}: the run used {shortened(value)}, but a file may not choose which files are "
        f"read; type {argument}, or its current location{alternative}"
    )
