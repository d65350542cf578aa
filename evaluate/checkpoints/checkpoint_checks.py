"""Checks of LoRA files before any image is generated: unreadable ones, and mismatches."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from train.config.schema import DataConfig
from train.errors import CheckpointError
from train.lora.checkpoint import read_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import BaseModel
from train.models.families import EPSILON, FAMILIES, VELOCITY
from train.text.display import shortened
from train.text.shell import in_setting

log = logging.getLogger(__name__)
Metadata = Mapping[str, str]
RESOLUTION_TOLERANCE = 1.1  # resolutions whose sides differ by at most this factor count as equal
STEP = 8  # sides of images are multiples of 8 pixels
OTHER_MODEL = "another one"
TYPEABLE = r"[\w ,.:+-]+"  # a value that a person would type


Result = TypeVar("Result")


def readable_files(files: Iterable[Path]) -> dict[Path, Metadata]:
    """The metadata of the files that can be read; the others are skipped with a warning.

    Raises:
        CheckpointError: none can be read; the error of the first.
    """
    return _read_all(files, read_metadata)


def loadable_files(files: Iterable[Path], base: BaseModel) -> set[Path]:
    """The files that fit this base; the others are skipped with a warning.

    Keys that the base has no module for are reported once for all files with the same keys.

    Raises:
        CheckpointError: none fits; the error of the first.
    """
    reported = set()
    unused = _read_all(files, lambda file: tuple(read_checkpoint(file, base.adapters)[1]))
    for file, keys in unused.items():
        if keys and keys not in reported:
            reported.add(keys)
            log.warning(
                f"{file.name}: the base has no module for {len(keys)} of its keys, which are "
                f"ignored (such as {keys[0]})"
            )
    return set(unused)


def _read_all(files: Iterable[Path], read: Callable[[Path], Result]) -> dict[Path, Result]:
    results, errors = {}, []
    for file in files:
        try:
            results[file] = read(file)
        except CheckpointError as error:
            errors.append(error)
    if errors and not results:
        raise errors[0]
    for reason in errors:
        log.warning(f"{reason}; the file is skipped")
    return results


@dataclass(frozen=True)
class Trait:
    """A property of the training that generated images depend on, as a file's metadata state it.

    Attributes:
        words: its name in messages.
        read: reads it from the metadata; empty if they lack it.
        used: the value that is used here.
        setting: the setting that takes the file's value; empty if none does.
    """

    words: str
    read: Callable[[Metadata], str]
    used: str
    setting: str = ""


def mismatch_warnings(metadata: Iterable[Metadata], base: BaseModel, data: DataConfig) -> list[str]:
    """A line for each trait with which the files were trained otherwise than they are scored."""
    files = list(metadata)
    lines = []
    for trait in _traits(base, data):
        for value, count in Counter(trait.read(metadata) for metadata in files).items():
            if value and value != trait.used:
                can_help = trait.setting and re.fullmatch(TYPEABLE, value)
                setting = in_setting(trait.setting, value) if can_help else ""
                lines.append(
                    f"{count} of {len(files)} files say that they were trained with {trait.words} "
                    f"{shortened(value)}; they are scored with {trait.used}"
                    + (f" ({setting} scores them as they were trained)" if setting else "")
                )
    return lines


def _traits(base: BaseModel, data: DataConfig) -> list[Trait]:
    family = base.family
    version = family.base_model_version(base.prediction_type)
    traits = [
        Trait("the base model", _version, version.removesuffix("_v")),
        Trait("the prediction type", _prediction, base.prediction_type, "base.prediction_type"),
        Trait(
            "zero terminal SNR",
            lambda metadata: metadata.get("ss_zero_terminal_snr", "").replace("None", ""),
            str(bool(base.noise_scheduler.config.rescale_betas_zero_snr)),
        ),
        Trait("the resolution", partial(_resolution, data.resolution), str(data.resolution),
              "data.resolution"),
        Trait("the trigger", lambda metadata: metadata.get("modelspec.trigger_phrase", "").strip(),
              data.trigger_words, "data.trigger"),
    ]  # fmt: skip
    if not family.is_xl:  # SDXL uses one layer, whatever the metadata state
        traits.append(Trait("clip_skip", _clip_skip, str(base.clip_skip), "base.clip_skip"))
    if base.short_hash:  # only single files have the hashes that trainers write
        traits.append(Trait("the model", partial(_model, base), OTHER_MODEL))
    return traits


def _clip_skip(metadata: Metadata) -> str:
    value = metadata.get("ss_clip_skip") or metadata.get("modelspec.encoder_layer") or ""
    return value if re.fullmatch("[1-9]|1[0-9]", value) else ""


def _prediction(metadata: Metadata) -> str:
    value = metadata.get("modelspec.prediction_type", "") or metadata.get("ss_prediction_type", "")
    velocity = metadata.get("ss_v_parameterization", "")
    if velocity == "True" or metadata.get("ss_base_model_version", "").endswith("_v"):
        return VELOCITY
    known = {"epsilon": EPSILON, "v": VELOCITY, VELOCITY: VELOCITY}
    return known.get(value, EPSILON if velocity == "False" else "")


def _version(metadata: Metadata) -> str:
    """kohya's version string of the family, if it is one of the families here."""
    value = metadata.get("ss_base_model_version", "").removesuffix("_v")
    return value if value in {family.version for family in FAMILIES} else ""


def _resolution(used: int, metadata: Metadata) -> str:
    """Side of a square with as many pixels as a training image; `used` if it is similar."""
    sides = [int(side) for side in re.findall(r"\d{2,5}", metadata.get("ss_resolution", ""))]
    if len(sides) not in (1, 2):
        return ""
    side = round(math.sqrt(sides[0] * sides[-1]) / STEP) * STEP
    return str(used if 1 / RESOLUTION_TOLERANCE < side / used < RESOLUTION_TOLERANCE else side)


def _model(base: BaseModel, metadata: Metadata) -> str:
    """The name of the model if its hashes differ from the base's."""
    hashes = {metadata.get("ss_new_sd_model_hash", ""), metadata.get("ss_sd_model_hash", "")} - {""}
    if not hashes or hashes & {base.fingerprint, base.short_hash}:
        return ""
    return metadata.get("ss_sd_model_name", "") or f"of hash {min(hashes)[:10]}"
