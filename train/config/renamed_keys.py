"""Former names of settings, and how their old values are written now.

Logged runs, LoRA files, records of studies and states to resume from keep the names of the version
that wrote them. They are read through `migrate_keys` or `migrate_flat_keys`. A user who types an
old name is told the new one (`check_renamed`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from train.errors import ConfigError


@dataclass(frozen=True)
class Renamed:
    """The present name of a setting.

    Attributes:
        key: the new dotted name.
        values: old value -> new value, if the values have changed too.
    """

    key: str
    values: Mapping[Any, Any] = field(default_factory=dict)

    def value(self, old: Any) -> Any:
        """The present form of an old value."""
        return self.values.get(old, old) if isinstance(old, str) else old


# old dotted name -> new one; a group stands for all its settings without a line of their own
RENAMED = {
    "scheduler.warmup": Renamed("scheduler.warmup_ratio"),
    "scheduler.decay": Renamed("scheduler.decay_ratio"),
    "base.speed": Renamed("base.compile", {"eager": False, "compile": True}),
    "base.prediction": Renamed("base.prediction_type"),
    "data.few": Renamed("data.min_images_warning"),
    "data.latents": Renamed("data.resample_latents", {"sampled": True, "fixed": False}),
    "training.keep_last": Renamed("training.save_last"),
    "training.oom": Renamed("training.on_oom", {"stop": "fail", "adapt": "degrade"}),
    "training.state_minutes": Renamed("training.resume_save_minutes"),
    "pruner.kept": Renamed("pruner.slope_discount"),
    "study.memorised_epochs": Renamed("early_stop.memorization_patience"),
    "study.settled_epochs": Renamed("early_stop.patience"),
    "study.learning_share": Renamed("early_stop.min_progress_share"),
    "study.queue": Renamed("study.enqueue"),
    "study.from_study": Renamed("study.warm_start"),
    "study.keep": Renamed("study.keep_checkpoints"),
    "scores.encoder": Renamed("scores.clip_model"),
    "scores.pose": Renamed("scores.pose_detector"),
    "probes.values": Renamed("probes.attributes"),
    "probes.set": Renamed("probes.file"),
    "policy.limits": Renamed("selection.max"),
    "policy.floors": Renamed("selection.min"),
    "policy": Renamed("selection"),
    "anyway": Renamed("force"),  # of sweeper.reproduce, like the next one
    "keep": Renamed("keep_checkpoints"),
}


def renamed(key: str) -> Renamed | None:
    """The present name of a dotted name; None if it has not changed."""
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        if entry := RENAMED.get(".".join(parts[:count])):
            rest = parts[count:]
            return Renamed(".".join([entry.key, *rest]), {} if rest else entry.values)
    return None


def migrate_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under their present names; existing new names keep their values."""
    migrated = _copied(settings)
    for old, new in RENAMED.items():
        *groups, name = old.split(".")
        holder: Any = migrated
        for group in groups:
            holder = holder.get(group) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and name in holder:
            _put(migrated, new.key.split("."), new.value(holder.pop(name)))
    return migrated


def migrate_flat_keys(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings by their dotted names, with all values as text."""
    migrated: dict[str, str] = {}
    for key, text in settings.items():
        prefix, _, name = key.rpartition(" ")  # "search of" in the shared settings of a study
        new = renamed(name)
        current = f"{prefix} {new.key}".strip() if new else key
        migrated[current] = str(new.value(text)) if new else text
    return migrated


def current_override(key: str, value: str) -> tuple[str, str]:
    """The present form of a dotted key and its value, as typed for an earlier version."""
    new = renamed(key)
    if new is None:
        return key, value
    current = new.value(value)
    return new.key, str(current).lower() if isinstance(current, bool) else str(current)


def check_renamed(settings: Iterable[tuple[str, str]], known: Collection[str]) -> None:
    """Rejects an old name that a user has typed, with the new one.

    Args:
        settings: dotted key and value, as typed.
        known: the command's settings. Old names that have no new one here are left to Hydra.

    Raises:
        ConfigError: with the new name.
    """
    groups = {name.split(".")[0] for name in known}
    for key, value in settings:
        new, current = current_override(key, value)
        if new != key and new.split(".")[0] in groups and key not in known:
            typed = f"{new}={current}" if value else new
            raise ConfigError(f"{key}: this setting is called {new} now; type {typed}")


def _copied(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in settings.items()}


def _put(settings: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets a nested value if it is absent; groups are merged."""
    *groups, name = keys
    for group in groups:
        holder = settings.setdefault(group, {})
        if not isinstance(holder, dict):
            return
        settings = holder
    if isinstance(value, dict) and isinstance(settings.get(name), dict):
        settings[name] = value | settings[name]
    else:
        settings.setdefault(name, value)
