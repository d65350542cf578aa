"""The scorecards of a folder of LoRA files, on disk as soon as each is made."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from evaluate.scorecard import Scorecard
from train.peft_config import read_settings
from train.weights_file import read_metadata, weights_hash, write_atomically

log = logging.getLogger(__name__)
FILE = "scorecards.json"


class Ledger:
    """`scorecards.json` in an output folder; what is in it is not scored again.

    Args:
        about: fingerprints of the pictures, the base and the probes; a ledger of others is begun
            anew.
    """

    def __init__(self, folder: Path, about: dict[str, str]) -> None:
        self.file, self.about = folder / FILE, about
        self.cards: dict[str, dict[str, Any]] = {}  # sha256 of the weights -> scorecard
        if self.file.is_file():
            saved = self._read()
            if saved.get("about") == about:
                self.cards = saved["cards"]

    def _read(self) -> dict[str, Any]:
        try:
            saved = json.loads(self.file.read_text(encoding="utf-8"))
            if isinstance(saved["cards"], dict):
                return dict(saved)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        log.warning(f"{self.file} is damaged; all is scored again")
        return {}

    def find(self, file: Path) -> Scorecard | None:
        """The scorecard of a file of these weights and strength, whatever it is called now."""
        saved = self.cards.get(key_of(file))
        try:
            return Scorecard.from_dict({**saved, "checkpoint": str(file)}) if saved else None
        except (TypeError, ValueError, KeyError, AttributeError):
            log.warning(f"{self.file}: the scores of {file.name} are damaged; it is scored again")
            return None

    def add(self, card: Scorecard) -> None:
        """Keeps a scorecard; it is on disk when this returns."""
        self.cards[key_of(card.checkpoint)] = card.to_dict()
        content = {"about": self.about, "cards": self.cards}
        write_atomically(self.file, json.dumps(content, indent=1).encode())


def key_of(file: Path) -> str:
    """What a file does to the base: its weights, and where their strength is not among them, it."""
    weights = weights_hash(file)
    settings = read_settings(file, read_metadata(file))
    if not settings:
        return weights
    return hashlib.sha256(f"{weights}{json.dumps(settings, sort_keys=True)}".encode()).hexdigest()
