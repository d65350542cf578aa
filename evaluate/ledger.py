"""The scorecards of a folder of LoRA files, on disk as soon as each is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluate.scorecard import Scorecard
from train.checkpoint import weights_hash, write_atomically

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
            saved = json.loads(self.file.read_text(encoding="utf-8"))
            if saved.get("about") == about:
                self.cards = saved["cards"]

    def find(self, file: Path) -> Scorecard | None:
        """The scorecard of a file of these weights, whatever it is called now."""
        saved = self.cards.get(weights_hash(file))
        return Scorecard.from_dict({**saved, "checkpoint": str(file)}) if saved else None

    def add(self, card: Scorecard) -> None:
        """Keeps a scorecard; it is on disk when this returns."""
        self.cards[weights_hash(card.checkpoint)] = card.to_dict()
        content = {"about": self.about, "cards": self.cards}
        write_atomically(self.file, json.dumps(content, indent=1).encode())
