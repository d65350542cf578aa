"""The command that trains a trial by itself, from the overrides that its record has."""

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

# settings of a command that are a search's own, not a trial's
NOT_A_TRIALS = ("study", "hydra", "search", "pruner", "pack", "selection")
# settings of the machine, for the person who runs the command to choose
OF_THE_MACHINE = ("cache", "cache_path", "base.compile")
KEY = re.compile(r"(~|\+{0,2})([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.ASCII)
CHOICE = re.compile(r"[A-Za-z0-9_-]+")
OF_A_SETTING = re.compile(r"\$\{[\w.]+\}", re.ASCII)  # ${network.rank}, and not ${oc.env:HOME}
# encoders that come with the program or with its libraries, by open_clip's names
ENCODERS = (EMBEDDED, "ViT-L-14/openai")


class Again(NamedTuple):
    """A command, and the settings that the person who runs it must add."""

    command: str
    left_out: list[str]


def again_command(record: TrialRecord) -> Again:
    """The trial by itself, from the settings that made it.

    Left out is what names code or asks for what it is not: classes, encoders from elsewhere,
    choices that do not ship with conf/, and whatever is no setting, such as flags.
    """
    typed: dict[str, str] = {}
    left_out: dict[str, None] = {}
    for override in record.overrides:
        key, sign, value = as_typed(str(override)).partition("=")
        named = KEY.fullmatch(key)
        if named is None:
            continue
        name, value = current_override(named[2], value)
        key = named[1] + name
        if name.split(".")[0] in NOT_A_TRIALS or name in OF_THE_MACHINE:
            continue
        if _is_plain(name, value) and (named[1] != "~" or _kind(name) in FREE_KINDS):
            typed[key] = f"{key}{sign}{value}"
        elif _kind(name) is not None or (CONF / name).is_dir():
            left_out[name] = None
    words = [in_shell(word) for word in typed.values()]
    return Again(" ".join(["python -m sweeper", *words]), [*left_out])


def _is_plain(name: str, value: str) -> bool:
    """Whether a value can be handed over: the setting is known, and it names no code."""
    if "\0" in value:
        return False
    if (CONF / name).is_dir():
        return bool(CHOICE.fullmatch(value)) and (CONF / name / f"{value}.yaml").is_file()
    kind = _kind(name)
    if kind is None or name == "scores.pose_model" or "._" in name:  # optimizer._target_
        return False
    if name == "scores.clip_model":
        return value in ENCODERS
    return kind in TEXT_KINDS or "{" not in OF_A_SETTING.sub("", value)


def _kind(name: str) -> Kind | None:
    """Of which kind a setting is, see `train.config.setting_kinds.kinds`; None: there is none."""
    known = _known()
    if name in known:
        return known[name][0]
    kind, _ = known.get(name.partition(".")[0], (None, False))
    return kind if kind in FREE_KINDS else None


@lru_cache
def _known() -> dict[str, tuple[Kind, bool]]:
    return kinds(SweepConfig)
