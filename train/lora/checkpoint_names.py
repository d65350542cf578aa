"""After which epoch or step a LoRA file was saved: what its metadata and its name tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from train.files.untrusted import UntrustedFileError, parse_json

Number = int | None
# what trainers call every file, so that the folder has the name
SAME_FOR_ALL = {"adapter_model", "pytorch_lora_weights", "model", "unet", "text_encoder",
                "text_encoder_2", "transformer"}  # fmt: skip
# names as the trainers give them; epoch and step by their groups
TRAINERS = (
    r"-save-(?P<step>\d+)-(?P<epoch>\d+)-\d+$",  # OneTrainer
    r"-step(?P<step>\d{8})$",  # kohya
    r"-(?P<epoch>\d{6})$",  # kohya
    r"_(?P<step>\d{9})$",  # ai-toolkit
    r"^checkpoint-(?P<step>\d+)$",  # the diffusers scripts, SimpleTuner
)
# and as people do
WORDS = (
    r"(?<![a-z])(?:epochs?|ep|e)[-_= ]?(?P<epoch>\d+)(?!\d)"
    r"(?:.*(?<![a-z])(?:global[-_]step|steps?|s)[-_= ]?(?P<step>\d+))?(?!\d)",
    r"(?<![a-z])(?:global[-_]step|steps?)[-_= ]?(?P<step>\d+)(?!\d)",
    r"(?P<step>\d+)[-_ ]?steps?(?![a-z])",
    r"(?P<epoch>\d+)[-_ ]?ep(?:ochs?)?(?![a-z])",
)
LONGEST = 12  # digits: more are no count of steps


def name_of(path: Path) -> str:
    """The name of a file that a person or a trainer gave: its folder's where all are called so."""
    for part in (path.stem, *(folder.name for folder in path.absolute().parents)):
        if part.lower() not in SAME_FOR_ALL:
            return part
    return path.stem


def from_metadata(metadata: Mapping[str, str]) -> tuple[Number, Number]:
    """Epoch and step, as kohya or ai-toolkit write them."""
    epoch, step = _count(metadata.get("ss_epoch")), _count(metadata.get("ss_steps"))
    if epoch is not None or step is not None:
        return epoch, step
    try:
        about = parse_json(metadata.get("training_info", "{}"), _TrainingInfo, "training_info")
    except UntrustedFileError:
        return None, None
    return None, _count(about.step)


class _TrainingInfo(msgspec.Struct):
    """What ai-toolkit says of a training."""

    step: int | str | None = None


def from_names(paths: Iterable[Path]) -> dict[Path, tuple[Number, Number]]:
    """Epoch and step of files of one training, in the ways in which files are named.

    Where one has a trainer's name the others have such names too, or none.
    """
    paths = list(paths)
    ways = TRAINERS if any(_numbered(name_of(path), TRAINERS) for path in paths) else WORDS
    return {path: _from_name(path, ways) for path in paths}


def _from_name(path: Path, ways: tuple[str, ...]) -> tuple[Number, Number]:
    match = _numbered(name_of(path), ways)
    found = match.groupdict() if match else {}
    return _count(found.get("epoch")), _count(found.get("step"))


def run_of(path: Path) -> str:
    """What the files of one run have in common: the name without the trainer's number."""
    name = name_of(path)
    match = _numbered(name, TRAINERS)
    kept = (name[: match.start()] + name[match.end() :]).strip("-_ ") if match else name
    return kept or path.absolute().parent.parent.name


def _numbered(name: str, ways: tuple[str, ...]) -> re.Match[str] | None:
    found = (re.search(way, name, re.IGNORECASE) for way in ways)
    return next((match for match in found if match), None)


def epoch_and_step(path: Path, metadata: Mapping[str, str]) -> tuple[Number, Number]:
    """The epoch and the step after which a file was saved: from its metadata, else its name."""
    told = from_metadata(metadata)
    return told if told != (None, None) else from_names([path])[path]


def _count(text: object) -> Number:
    """A number of epochs or steps; None: it is none."""
    known = re.fullmatch(rf"[0-9]{{1,{LONGEST}}}", str(text).strip())
    return int(known[0]) if known else None
