"""What is wrong with LoRA files, or not as they are drawn: said before any picture is."""

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
ALIKE = 1.1  # resolutions whose sides differ by no more than this factor
FINEST = 8  # pixels of which a side is a multiple
OURS = "another one"
PLAIN = r"[\w ,.:+-]+"  # a value that a person would type


Result = TypeVar("Result")


def readable(files: Iterable[Path]) -> dict[Path, Metadata]:
    """The metadata of the files that can be read; the others are left out, with a line.

    Raises:
        CheckpointError: none can be read; the reason of the first.
    """
    return _kept(files, read_metadata)


def loadable(files: Iterable[Path], base: BaseModel) -> set[Path]:
    """The files that can be drawn with this base; the others are left out, with a line.

    What the base has no place for is said once for all the files that have the same.

    Raises:
        CheckpointError: none can be drawn; the reason of the first.
    """
    said = set()
    found = _kept(files, lambda file: tuple(read_checkpoint(file, base.adapters)[1]))
    for file, others in found.items():
        if others and others not in said:
            said.add(others)
            log.warning(
                f"{file.name}: {len(others)} of its parts have no place in the base and are left "
                f"out (such as {others[0]})"
            )
    return set(found)


def _kept(files: Iterable[Path], read: Callable[[Path], Result]) -> dict[Path, Result]:
    found, errors = {}, []
    for file in files:
        try:
            found[file] = read(file)
        except CheckpointError as error:
            errors.append(error)
    if errors and not found:
        raise errors[0]
    for left_out in errors:
        log.warning(f"{left_out}; it is left out")
    return found


@dataclass(frozen=True)
class Trait:
    """Something that a file says of its training and that a picture hangs on.

    Attributes:
        words: what it is.
        said: reads it from the metadata; empty where they do not say.
        drawn: how it is here.
        remedy: the setting to which the file's value is given; empty: nothing helps.
    """

    words: str
    said: Callable[[Metadata], str]
    drawn: str
    remedy: str = ""


def remarks(metadata: Iterable[Metadata], base: BaseModel, data: DataConfig) -> list[str]:
    """A line for each thing in which the files were trained otherwise than they are drawn."""
    files = list(metadata)
    lines = []
    for trait in _traits(base, data):
        for value, count in Counter(trait.said(about) for about in files).items():
            if value and value != trait.drawn:
                helps = trait.remedy and re.fullmatch(PLAIN, value)
                remedy = in_setting(trait.remedy, value) if helps else ""
                lines.append(
                    f"{count} of {len(files)} files say that they were trained with {trait.words} "
                    f"{shortened(value)}; they are drawn with {trait.drawn}"
                    + (f" ({remedy} draws them as they were trained)" if remedy else "")
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
            lambda about: about.get("ss_zero_terminal_snr", "").replace("None", ""),
            str(bool(base.noise.config.rescale_betas_zero_snr)),
        ),
        Trait("the resolution", partial(_side, data.resolution), str(data.resolution),
              "data.resolution"),
        Trait("the trigger", lambda about: about.get("modelspec.trigger_phrase", "").strip(),
              data.trigger_words, "data.trigger"),
    ]  # fmt: skip
    if not family.is_xl:  # SDXL takes one layer, whatever is said
        traits.append(Trait("clip_skip", _clip_skip, str(base.clip_skip), "base.clip_skip"))
    if base.short_hash:  # only single files have the hashes that trainers write
        traits.append(Trait("the model", partial(_model, base), OURS))
    return traits


def _clip_skip(about: Metadata) -> str:
    said = about.get("ss_clip_skip") or about.get("modelspec.encoder_layer") or ""
    return said if re.fullmatch("[1-9]|1[0-9]", said) else ""


def _prediction(about: Metadata) -> str:
    said = about.get("modelspec.prediction_type", "") or about.get("ss_prediction_type", "")
    velocity = about.get("ss_v_parameterization", "")
    if velocity == "True" or about.get("ss_base_model_version", "").endswith("_v"):
        return VELOCITY
    known = {"epsilon": EPSILON, "v": VELOCITY, VELOCITY: VELOCITY}
    return known.get(said, EPSILON if velocity == "False" else "")


def _version(about: Metadata) -> str:
    """kohya's word for the family; only of those that are known here."""
    said = about.get("ss_base_model_version", "").removesuffix("_v")
    return said if said in {family.version for family in FAMILIES} else ""


def _side(drawn: int, about: Metadata) -> str:
    """The side of a square of as many pixels as a training picture; as drawn where it is near."""
    sides = [int(side) for side in re.findall(r"\d{2,5}", about.get("ss_resolution", ""))]
    if len(sides) not in (1, 2):
        return ""
    side = round(math.sqrt(sides[0] * sides[-1]) / FINEST) * FINEST
    return str(drawn if 1 / ALIKE < side / drawn < ALIKE else side)


def _model(base: BaseModel, about: Metadata) -> str:
    """The name of the model, where it is another one by its hashes."""
    hashes = {about.get("ss_new_sd_model_hash", ""), about.get("ss_sd_model_hash", "")} - {""}
    if not hashes or hashes & {base.fingerprint, base.short_hash}:
        return ""
    return about.get("ss_sd_model_name", "") or f"of hash {min(hashes)[:10]}"
