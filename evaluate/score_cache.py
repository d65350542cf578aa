"""The scorecards of a folder of LoRA files, on disk as soon as each is made."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import msgspec

from evaluate.scorecard import Scorecard
from train.files.atomic_write import write_atomically
from train.files.untrusted import Tree, UntrustedFileError, read_json
from train.lora.checkpoint_file import read_metadata, weights_hash
from train.lora.peft_config import read_settings

log = logging.getLogger(__name__)
FILE = "scorecards.json"
MAX_BYTES = 100_000_000  # bytes, some thousand scorecards


class SavedScores(msgspec.Struct):
    """The content of the file; each scorecard is validated when it is looked up."""

    about: dict[str, str]
    cards: dict[str, Tree]


class ScoreCache:
    """`scorecards.json` in an output folder: checkpoints in it are not scored again.

    Args:
        about: fingerprints of the images, the base and the probes; if the saved ones differ, the
            cache starts empty.
    """

    def __init__(self, folder: Path, about: dict[str, str]) -> None:
        self.file, self.about = folder / FILE, about
        self.cards: dict[str, Tree] = {}  # sha256 of the weights -> scorecard
        try:
            saved = read_json(self.file, SavedScores, MAX_BYTES)
        except FileNotFoundError:
            return
        except UntrustedFileError as error:
            log.warning(f"{error}; everything is scored again")
            return
        if saved.about == about:
            self.cards = saved.cards

    def find(self, file: Path) -> Scorecard | None:
        """The scorecard of a file with these weights and this strength, whatever its name."""
        saved = self.cards.get(key_of(file))
        try:
            return Scorecard.from_dict({**saved, "checkpoint": str(file)}) if saved else None
        except UntrustedFileError as error:
            log.warning(
                f"{self.file}: the scores of {file.name} are damaged ({error}); it is scored again"
            )
            return None

    def add(self, card: Scorecard) -> None:
        """Adds a scorecard; it is on disk when this method returns."""
        self.cards[key_of(card.checkpoint)] = card.to_dict()
        content = {"about": self.about, "cards": self.cards}
        write_atomically(self.file, json.dumps(content, indent=1).encode())


def key_of(file: Path) -> str:
    """Hash of a file's effect: its weights, plus the settings if these determine the strength."""
    weights = weights_hash(file)
    settings = read_settings(file, read_metadata(file))
    if not settings:
        return weights
    return hashlib.sha256(f"{weights}{json.dumps(settings, sort_keys=True)}".encode()).hexdigest()
