"""Logged settings, taken up by the program as it is today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from sweeper.config import SweepConfig, check_sweep
from train.config import ConfigError, keys, suggestion, typed
from train.flattening import flatten
from train.text_settings import literal

# a search's alone: they have no say in a trial that is trained again
OF_A_SEARCH = ("study", "search", "pruner", "pack")


@dataclass
class Carried:
    """Settings as they are logged, in today's form.

    Attributes:
        config: to train with.
        added: key -> today's value, of settings that did not exist then.
        dropped: key -> value, of settings that do not exist any more.
    """

    config: SweepConfig
    added: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, Any] = field(default_factory=dict)


def carry_over(
    then: Mapping[str, Any], places: Mapping[str, Any], anyway: bool = False, by: str = ""
) -> Carried:
    """The settings of a run, each of them checked; within a command, whose conf/ is used.

    Args:
        then: nested, as logged. Of the sections in it every key is accounted for; what is not in
            it at all has today's defaults.
        places: dotted key -> where something lies now.
        anyway: drop settings that this version does not have.
        by: which version logged them, for the message.

    Raises:
        ConfigError: a setting that this version does not have, with the nearest that it has; or
            settings that it refuses.
    """
    logged = {name: value for name, value in then.items() if name not in OF_A_SEARCH}
    base = places.get("base.path") or (logged.get("base") or {}).get("path")
    today = todays_defaults(base)
    carried = Carried(today)
    settings = _overlay(today, logged, "", carried)
    carried.added = {key: v for key, v in carried.added.items() if key.split(".")[0] in logged}
    if carried.dropped and not anyway:
        raise ConfigError(_unknown(carried.dropped, today, by))
    merged = OmegaConf.create(literal(settings))
    for key, value in places.items():
        OmegaConf.update(merged, key, literal(value))
    carried.config = typed(SweepConfig, merged)
    check_sweep(carried.config)
    return carried


def todays_defaults(base: str | None) -> SweepConfig:
    """Of conf/sweep.yaml, as they are on a base (None: the embedded one)."""
    composed = compose("sweep")
    if base:
        OmegaConf.update(composed, "base.path", literal(base))
    return typed(SweepConfig, composed)


def _overlay(today: Any, then: Mapping[str, Any], prefix: str, carried: Carried) -> dict[str, Any]:
    """Then's values under today's keys, group by group; free-form groups are taken whole."""
    values, plain = {}, asdict(today)
    for name in (f.name for f in fields(today)):
        key, default = f"{prefix}{name}", getattr(today, name)
        if name in then and is_dataclass(default) and isinstance(then[name], Mapping):
            values[name] = _overlay(default, then[name], f"{key}.", carried)
        elif name in then:
            values[name] = then[name]
        else:
            values[name] = plain[name]
            carried.added |= flatten({key: plain[name]})
    known = {f.name for f in fields(today)}
    carried.dropped |= {f"{prefix}{name}": then[name] for name in then if name not in known}
    return values


def _unknown(dropped: Mapping[str, Any], today: SweepConfig, by: str) -> str:
    known = keys(OmegaConf.create(asdict(today)))
    told = [f"{key}={value}{suggestion(key, known)}" for key, value in dropped.items()]
    return (
        f"the run was logged by another version{by} and has settings that this one does not: "
        f"{', '.join(told)} (that version trains it as it was; anyway=true trains without them)"
    )
