"""Turns Hydra's errors about a wrong setting into one line with a suggestion."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.global_hydra import GlobalHydra

from train.cli.compose import composed
from train.config.parsing import keys, suggestion
from train.config.ranges import NAMES, shown

INTERNAL = ("hydra", "pruner", "search")  # of two settings with the same name, users mean the other
FULL_KEY = re.compile(r"\s(?:full_key|reference_type|object_type)[:=]")
LONGEST = 500  # characters of a message of Hydra's
MOST_NAMED = 3  # settings of one suggestion
# kohya's names, and other names that users expect
KOHYA = {
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
MERGE = re.compile(r"Error merging override (\S+?)=")
SEARCH = "search."  # its keys are those of other settings, including the dots


def explain(name: str, error: Exception, schema: Any = None) -> str:
    """Hydra's message in one line, with the nearest valid key or choice.

    Args:
        name: of the config in conf/.
        schema: the dataclass that it must fit.
    """
    message = " ".join(f"{error} {error.__cause__ or ''}".split())
    unknown = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'",
                        message)  # fmt: skip
    if unknown:
        key = unknown.group(1).lstrip("+~")
        within = str(getattr(error.__cause__, "full_key", None) or "")
        key = within if within.startswith(f"{key}.") else key  # a value with braces
        if names := entries(schema, key.rpartition(".")[0]):
            return _entry(key, names)
        if key.startswith(SEARCH):
            swept = key.removeprefix(SEARCH)
            return f"{key}: settings to search are typed without search., as in -m {swept}=1,2"
        GlobalHydra.instance().clear()
        known = keys(composed(name, with_hydra=True))
        if key not in known:
            return f"{key}: there is no such setting{suggested(key, known)}"
        if "already at" in message:
            return f"+{key}: is already a setting; type it without +"
        if "delete" in message:
            return f"~{key}: has another value, so it is not removed"
        return f"{key}: this cannot be set on the command line"
    missing = re.search(
        r"Could not find '([^']+)' Available options in '[^']+': (.*?)(?: Config search|$)", message
    )
    if missing:
        group, _, choice = missing.group(1).rpartition("/")
        choices = missing.group(2).split()
        near = suggestion(choice, choices)
        return f"{group}: {shown(choice)} is none of {', '.join(choices)}{near}"
    if merged := MERGE.search(message):
        key = merged.group(1).lstrip("+~")
        reason = FULL_KEY.split(message.split(str(error.__cause__).split()[0], 1)[-1])[0]
        return f"{key}: {textwrap.shorten(reason, LONGEST)}"
    return textwrap.shorten(message, LONGEST)


def entries(schema: Any, key: str) -> Sequence[str]:
    """The valid names of a setting with entries; empty if they are free."""
    *groups, last = key.split(".")
    for group in groups:
        schema = get_type_hints(schema).get(group) if is_dataclass(schema) else None
    known = fields(schema) if is_dataclass(schema) else ()
    return next((one.metadata.get(NAMES, ()) for one in known if one.name == last), ())


def _entry(key: str, names: Sequence[str]) -> str:
    """The message for an entry that the config does not have."""
    setting, _, entry = key.rpartition(".")
    if entry in names:
        return f"{key}: is not set in this config; type +{key}=... to add it"
    near = suggestion(entry, [*names]) or f"; there are {', '.join(names)}"
    return f"{key}: there is no {entry} for {setting}{near}"


def suggested(key: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the settings that the user may have meant, or an empty text.

    Settings with the same last part come first, then those with a similar last part; Hydra's own
    and those of a search only if there are no others.
    """
    last = key.rpartition(".")[2]
    if KOHYA.get(last) in known:
        return f"; did you mean {KOHYA[last]}?"
    parts = {name: name.rpartition(".")[2] for name in known}
    near = difflib.get_close_matches(last, [*dict.fromkeys(parts.values())], n=1, cutoff=0.75)
    for wanted in ([last], near):
        matches = [name for name, part in parts.items() if part in wanted]
        matches = [name for name in matches if not name.startswith(INTERNAL)] or matches
        if matches:
            return f"; did you mean {' or '.join(matches[:MOST_NAMED])}?"
    return suggestion(key, list(known))
