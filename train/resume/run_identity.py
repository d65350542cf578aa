"""Identifies a run by the settings, dataset and base that determine the bytes of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.config.renamed_keys import migrate_keys
from train.config.schema import BASE_LOCATION_KEYS, DATA_LOCATION_KEYS
from train.files.untrusted import Tree, parse_json
from train.lora.checkpoint_file import read_metadata

LOCATION_KEYS = {"base": BASE_LOCATION_KEYS, "data": (*DATA_LOCATION_KEYS, "min_images_warning")}
NEUTRAL_KEYS = (
    "gradient_checkpointing",
    "save_last",
    "on_oom",
    "resume_save_minutes",
)  # of training; these do not change the bytes


def identity(
    settings: Mapping[str, Any], name: str, fingerprints: list[str], processes: int
) -> str:
    """Returns a string that is equal for runs that produce the same bytes.

    Args:
        settings: from `settings_of`, before any fallbacks.
        name: of its files.
        fingerprints: of the base and of the dataset.
        processes: number of processes that train it together.
    """
    parts = {**settings, "name": name, "fingerprints": fingerprints}
    for part, location_keys in LOCATION_KEYS.items():
        parts[part] = {key: v for key, v in settings[part].items() if key not in location_keys}
    training = {key: v for key, v in settings["training"].items() if key not in NEUTRAL_KEYS}
    training["batch_size"] *= processes
    if not training.get("ema"):
        training.pop("ema", None)  # older versions lacked it, and had the same bytes without
    return json.dumps({**parts, "training": training}, sort_keys=True)


def migrated_identity(saved: str) -> str:
    """An identity from a state, with the present names of the settings."""
    try:
        return json.dumps(migrate_keys(json.loads(saved)), sort_keys=True)
    except (AttributeError, ValueError):
        return saved


def identity_of(file: Path, name: str, processes: int) -> str:
    """Returns the identity of the run that saved a LoRA file; empty if its metadata lacks it.

    Raises:
        CheckpointError: it is not a LoRA file.
    """
    metadata = read_metadata(file)
    try:
        settings = migrate_keys(parse_json(metadata["lorasweep_config"], Tree, "lorasweep_config"))
        fingerprints = [metadata["lorasweep_base"], metadata["lorasweep_data"]]
        return identity(settings, name, fingerprints, processes)
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
