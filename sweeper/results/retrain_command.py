"""The command that retrains one trial, built from the overrides in its record."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from sweeper.config import SweepConfig
from sweeper.tracking.trial_record import TrialRecord
from train.cli.arguments import as_typed
from train.config.renamed_keys import current_override
from train.config.schema import CONF, EMBEDDED
from train.config.setting_kinds import FREE_KINDS, TEXT_KINDS, Kind, kinds
from train.text.shell import in_shell

# settings that belong to a search, not to a trial
SEARCH_GROUPS = ("study", "hydra", "search", "pruner", "pack", "selection")
# settings of the machine, chosen by the person who runs the command
MACHINE_SETTINGS = ("cache", "cache_path", "base.compile")
KEY = re.compile(r"(~|\+{0,2})([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.ASCII)
CHOICE = re.compile(r"[A-Za-z0-9_-]+")
INTERPOLATION = re.compile(r"\$\{[\w.]+\}", re.ASCII)  # ${network.rank}, and not ${oc.env:HOME}
# encoders that ship with the program or its libraries, by open_clip's names
TRUSTED_ENCODERS = (EMBEDDED, "ViT-L-14/openai")


class RetrainCommand(NamedTuple):
    """A command, and the settings that the person who runs it must add."""

    command: str
    omitted: list[str]


def retrain_command(record: TrialRecord) -> RetrainCommand:
    """The command that trains a trial with the same settings.

    Settings that can name code are omitted: classes, encoders from elsewhere, and options that do
    not ship with conf/. So is anything that is not a setting, such as a flag.
    """
    arguments: dict[str, str] = {}
    omitted: dict[str, None] = {}
    for override in record.overrides:
        key, sign, value = as_typed(str(override)).partition("=")
        match = KEY.fullmatch(key)
        if match is None:
            continue
        name, value = current_override(match[2], value)
        key = match[1] + name
        if name.split(".")[0] in SEARCH_GROUPS or name in MACHINE_SETTINGS:
            continue
        if _is_safe(name, value) and (match[1] != "~" or _kind(name) in FREE_KINDS):
            arguments[key] = f"{key}{sign}{value}"
        elif _kind(name) is not None or (CONF / name).is_dir():
            omitted[name] = None
    quoted = [in_shell(argument) for argument in arguments.values()]
    return RetrainCommand(" ".join(["python -m sweeper", *quoted]), [*omitted])


def _is_safe(name: str, value: str) -> bool:
    """Whether a value may be put into a command: the setting is known, and it names no code."""
    if "\0" in value:
        return False
    if (CONF / name).is_dir():
        return bool(CHOICE.fullmatch(value)) and (CONF / name / f"{value}.yaml").is_file()
    kind = _kind(name)
    if kind is None or name == "scores.pose_model" or "._" in name:  # optimizer._target_
        return False
    if name == "scores.clip_model":
        return value in TRUSTED_ENCODERS
    return kind in TEXT_KINDS or "{" not in INTERPOLATION.sub("", value)


def _kind(name: str) -> Kind | None:
    """The kind of a setting (see `train.config.setting_kinds.kinds`); None if it is unknown."""
    all_kinds = _kinds()
    if name in all_kinds:
        return all_kinds[name][0]
    kind, _ = all_kinds.get(name.partition(".")[0], (None, False))
    return kind if kind in FREE_KINDS else None


@lru_cache
def _kinds() -> dict[str, tuple[Kind, bool]]:
    return kinds(SweepConfig)
