"""Settings that came out of a file or a store: each is taken up only as far as its kind allows.

A received setting may say how a LoRA was trained. What is read, loaded or imported now is chosen
by the person at the keyboard (train/files/permissions.py).
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
from train.config.schema import EMBEDDED
from train.config.setting_kinds import LOCAL, Kind, kind_of
from train.errors import ConfigError
from train.files.paths import expanded
from train.files.permissions import is_foreign, may_read
from train.files.untrusted import Tree, check_regular, convert
from train.models.model_files import INDEX, WEIGHTS, BaseError, fingerprint, weight_files
from train.text.display import shortened
from train.text.shell import in_setting

# a search's alone: they have no say in a trial that is trained again
OF_A_SEARCH = ("study", "search", "pruner", "pack")


@dataclass(frozen=True)
class Received:
    """Settings as a file or a store has them, not yet to be trusted.

    Attributes:
        settings: nested, plain values.
        base: the fingerprint of the base that they were used with; empty: not known.
    """

    settings: Tree
    base: str = ""

    @classmethod
    def of(cls, content: object, name: str, base: str = "") -> Received:
        """Plain values as received settings.

        Args:
            name: where they are from, for the message.

        Raises:
            UntrustedFileError: no mapping of plain values, or one that is too deep.
        """
        return cls(migrate_keys(convert(content, Tree, name)), base)

    def text(self, group: str, name: str) -> str | None:
        """A setting that is a text, to be shown or compared; None where there is none."""
        within = self.settings.get(group)
        value = within.get(name) if isinstance(within, Mapping) else None
        return value if isinstance(value, str) else None

    def base_path(self) -> str | None:
        """The base that the settings name, if a file may name it; None where they name none.

        Raises:
            ConfigError: it is for the person to name.
        """
        group = self.settings.get("base")
        if not isinstance(group, Mapping) or group.get("path") is None:
            return None
        path = _text("base.path", group["path"])
        if path == EMBEDDED or _is_base(path, self.base):
            return path
        raise _refused("base.path", path, Kind.MODEL)

    def over(self, today: SweepConfig, named: Mapping[str, Any]) -> Overlaid:
        """The settings in the place of today's: free-form groups are taken whole.

        Args:
            today: the defaults on the base that is used.
            named: dotted key -> what the person has typed for it, which wins.

        Raises:
            ConfigError: a setting that a file may not give, or that is none.
        """
        result = Overlaid({})
        then = {name: value for name, value in self.settings.items() if name not in OF_A_SEARCH}
        result.values = _overlay(today, then, "", named, result)
        sections = set(then)
        result.added = {k: v for k, v in result.added.items() if k.split(".")[0] in sections}
        return result


@dataclass
class Overlaid:
    """Received settings under today's keys.

    Attributes:
        values: nested.
        added: key -> today's value, of settings that did not exist then.
        dropped: key -> value, of settings that do not exist any more.
    """

    values: dict[str, Any]
    added: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, Any] = field(default_factory=dict)


def _overlay(
    today: Any, then: Mapping[str, Any], prefix: str, named: Mapping[str, Any], result: Overlaid
) -> dict[str, Any]:
    values, plain, hints = {}, asdict(today), get_type_hints(type(today))
    for one in fields(today):
        key, default = f"{prefix}{one.name}", getattr(today, one.name)
        if key in named:
            values[one.name] = named[key]
        elif one.metadata.get(LOCAL) or (not prefix and one.name in OF_A_SEARCH):
            values[one.name] = plain[one.name]
        elif one.name not in then:
            values[one.name] = plain[one.name]
            result.added |= flatten({key: plain[one.name]})
        elif is_dataclass(default):
            within = _mapping(key, then[one.name], f"{key}.{fields(default)[0].name}")
            values[one.name] = _overlay(default, within, f"{key}.", named, result)
        else:
            kind = kind_of(one, hints[one.name])
            values[one.name] = RULES[kind](key, then[one.name], default)
    unknown = then.keys() - {one.name for one in fields(today)}
    result.dropped |= {f"{prefix}{name}": then[name] for name in then if name in unknown}
    return values


def _any(key: str, value: Any, default: Any) -> Any:
    """Types, ranges and words are checked with the whole config; nothing else depends on them."""
    if value == MISSING:  # OmegaConf would silently take the default
        raise ConfigError(f"{key}: ??? stands for a value that is missing")
    return value


def _path(key: str, value: Any, default: Any) -> Any:
    if value is None or _text(key, value) in (default, EMBEDDED, ""):
        return value
    if not is_foreign(value) and may_read(expanded(value)):
        return value
    raise _refused(key, value, Kind.PATH)


def _model(key: str, value: Any, default: Any) -> Any:
    if key == "base.path":  # `base_path` has looked at it; the defaults are those on that base
        return default
    if value is None or _text(key, value) in (default, EMBEDDED):
        return value
    raise _refused(key, value, Kind.MODEL)


def _class(key: str, value: Any, default: Any) -> Any:
    check_received_optimizer(settings := _mapping(key, value, f"{key}._target_"))
    return settings


def _never(key: str, value: Any, default: Any) -> Any:
    return default


RULES: dict[Kind, Callable[[str, Any, Any], Any]] = {
    Kind.NUMBER: _any,
    Kind.NUMBERS: _any,
    Kind.MAPPING: _any,
    Kind.CHOICE: _any,
    Kind.TEXT: _any,
    Kind.PATH: _path,
    Kind.MODEL: _model,
    Kind.CLASS: _class,
    Kind.ADDRESS: _never,
    Kind.SETTINGS: _never,
}


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key}: {format_value(value)} must be a text")
    return value


def _mapping(key: str, value: Any, inside: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{key}: {format_value(value)} cannot be; it is a group of settings, such as {inside}"
        )
    return value


def _is_base(path: str, logged: str) -> bool:
    """Whether a base lies at a path that the person has named, or one with the logged weights."""
    if is_foreign(path):
        return False
    try:
        source = expanded(path)
        if source.exists() and may_read(source):
            return True
        if source.is_dir() and not (source / INDEX).is_file():
            return False  # a folder of other things, which may be endless
        if not logged or (not source.is_dir() and source.suffix != WEIGHTS):
            return False
        files = weight_files(source)
        for file in files:
            check_regular(file)
        return fingerprint(files, source) == logged
    except (BaseError, OSError, ValueError):
        return False


def _refused(key: str, value: str, kind: Kind) -> ConfigError:
    """What to type in the place of a setting that a file may not give."""
    words = in_setting(key, value)
    if kind is Kind.MODEL:
        return ConfigError(
            f"{key}: the run used {shortened(value)}, but a file does not choose which model is "
            f"loaded; if you trust it, type {words}, or where it is now"
        )
    folder = in_setting(ALLOW_PATH, value)
    allow = f", or {folder}" if Path(value).is_absolute() and folder != f"{ALLOW_PATH}=" else ""
    return ConfigError(
        f"{key}: the run used {shortened(value)}, but a file does not choose which files are "
        f"read; type {words}, or where it is now{allow}"
    )
