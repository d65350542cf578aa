"""The epoch or step after which a LoRA file was saved, by its metadata and its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from train.files.untrusted import UntrustedFileError, parse_json

Number = int | None
# names that a trainer gives to every file, so that the folder's name distinguishes them
SAME_FOR_ALL = {"adapter_model", "pytorch_lora_weights", "model", "unet", "text_encoder",
                "text_encoder_2", "transformer"}  # fmt: skip
# the trainers' naming schemes; epoch and step are the groups
TRAINERS = (
    r"-save-(?P<step>\d+)-(?P<epoch>\d+)-\d+$",  # OneTrainer
    r"-step(?P<step>\d{8})$",  # kohya
    r"-(?P<epoch>\d{6})$",  # kohya
    r"_(?P<step>\d{9})$",  # ai-toolkit
    r"^checkpoint-(?P<step>\d+)$",  # the diffusers scripts, SimpleTuner
)
# and people's
WORDS = (
    r"(?<![a-z])(?:epochs?|ep|e)[-_= ]?(?P<epoch>\d+)(?!\d)"
    r"(?:.*(?<![a-z])(?:global[-_]step|steps?|s)[-_= ]?(?P<step>\d+))?(?!\d)",
    r"(?<![a-z])(?:global[-_]step|steps?)[-_= ]?(?P<step>\d+)(?!\d)",
    r"(?P<step>\d+)[-_ ]?steps?(?![a-z])",
    r"(?P<epoch>\d+)[-_ ]?ep(?:ochs?)?(?![a-z])",
)
MAX_DIGITS = 12  # digits of an epoch or a step


def name_of(path: Path) -> str:
    """The distinguishing name of a file: its folder's if the trainer names all files alike."""
    for part in (path.stem, *(folder.name for folder in path.absolute().parents)):
        if part.lower() not in SAME_FOR_ALL:
            return part
    return path.stem


def from_metadata(metadata: Mapping[str, str]) -> tuple[Number, Number]:
    """Epoch and step from the metadata of kohya or ai-toolkit."""
    epoch, step = _count(metadata.get("ss_epoch")), _count(metadata.get("ss_steps"))
    if epoch is not None or step is not None:
        return epoch, step
    try:
        training_info = parse_json(
            metadata.get("training_info", "{}"), _TrainingInfo, "training_info"
        )
    except UntrustedFileError:
        return None, None
    return None, _count(training_info.step)


class _TrainingInfo(msgspec.Struct):
    """ai-toolkit's record of a training."""

    step: int | str | None = None


def from_names(paths: Iterable[Path]) -> dict[Path, tuple[Number, Number]]:
    """Epoch and step of the files of one training, by their names.

    If one of them has a trainer's name, only the trainers' schemes apply to the others.
    """
    paths = list(paths)
    schemes = TRAINERS if any(_match(name_of(path), TRAINERS) for path in paths) else WORDS
    return {path: _from_name(path, schemes) for path in paths}


def _from_name(path: Path, schemes: tuple[str, ...]) -> tuple[Number, Number]:
    match = _match(name_of(path), schemes)
    groups = match.groupdict() if match else {}
    return _count(groups.get("epoch")), _count(groups.get("step"))


def run_of(path: Path) -> str:
    """The part of the name that the files of one run share: without the trainer's number."""
    name = name_of(path)
    match = _match(name, TRAINERS)
    shared = (name[: match.start()] + name[match.end() :]).strip("-_ ") if match else name
    return shared or path.absolute().parent.parent.name


def _match(name: str, schemes: tuple[str, ...]) -> re.Match[str] | None:
    matches = (re.search(scheme, name, re.IGNORECASE) for scheme in schemes)
    return next((match for match in matches if match), None)


def epoch_and_step(path: Path, metadata: Mapping[str, str]) -> tuple[Number, Number]:
    """The epoch and the step after which a file was saved: from its metadata, else its name."""
    numbers = from_metadata(metadata)
    return numbers if numbers != (None, None) else from_names([path])[path]


def _count(text: object) -> Number:
    """A number of epochs or steps; None if the text is not one."""
    match = re.fullmatch(rf"[0-9]{{1,{MAX_DIGITS}}}", str(text).strip())
    return int(match[0]) if match else None
