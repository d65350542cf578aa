"""The pictures of a report, inside of the page itself."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from evaluate.images.contact_sheet import COPY, DATA_SHEET, Cell, cells_of, places_of
from evaluate.images.contact_sheet import TRAINING as TRAINING_ROLE
from evaluate.images.probe_images import probe_cells
from evaluate.prompts.roles import CAPTION, CLASS, FRESH
from evaluate.scorecard import Scorecard
from sweeper.tracking.trial_record import TrialRecord

# with these a page stays far below 5 MB, whatever the study: 12 + 8 * 3 + 48 pictures of 10 kB
MAX_TRAINING, MAX_COMPARED, MAX_TILES, JPEG_QUALITY = 12, 8, 48, 82
COUNT = re.compile(r"([0-9]{1,9}) training\b")  # in the tag that counts the pictures
TITLES = {FRESH: "Something new was asked for", CAPTION: "Training captions", CLASS: "The class "
          "alone, without the trigger word", COPY: "Training pictures that it copied"}  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """A picture in the page.

    Attributes:
        uri: its data.
        words: what was asked for, or its caption.
        label: which checkpoint drew it; empty where all around it are of the same.
        copy: it is a copy of a training picture.
        picked: the pick drew it.
    """

    uri: str
    caption: str
    label: str = ""
    copy: bool = False
    selected: bool = False

    @property
    def alt(self) -> str:
        """The picture in words."""
        by = f" Drawn by {self.label}." if self.label else ""
        return f"{self.caption}.{by}{' A copy of a training picture.' if self.copy else ''}"


@dataclass(frozen=True)
class Strip:
    """Pictures under one title, or why there are none."""

    title: str
    tiles: list[Tile]
    sentence: str = ""


def training_strip(study: Path, record: TrialRecord) -> Strip:
    """Up to TRAINING of the pictures that a study was trained on, spread over all of them: those of
    its own data sheet, wherever the pictures themselves are."""
    title = "What it was trained on"
    sheet = study / DATA_SHEET
    names = [name for name in places_of(sheet) if name.startswith(f"{TRAINING_ROLE} ")]
    cells = [*cells_of(sheet, _spread(names, MAX_TRAINING)).values()]
    if not cells:
        return Strip(title, [], "The training pictures are not in this study's data sheet.")
    count = _training_count(record, len(names))
    sentence = f"{len(cells)} of {count} pictures." if len(cells) < count else ""
    return Strip(title, [Tile(data_uri(cell.picture), cell.words) for cell in cells], sentence)


def _training_count(record: TrialRecord, shown: int) -> int:
    """How many pictures a trial was trained on; a data sheet shows some of very many."""
    match = COUNT.match(str(record.tags.get("data.pictures", "")))
    return max(shown, int(match[1])) if match else shown


def compare_epochs(record: TrialRecord, selected: Scorecard) -> dict[str, list[Tile]]:
    """Probes, and what came of each at an earlier epoch, at the pick and at a later one.

    Those that were copies at one of these epochs come first, then others from all over the set.
    """
    cards = key_epochs(record.scorecards, selected)
    places = {card.epoch: places_of(record.sheet(card.epoch)) for card in cards}
    names = [name for name in places[selected.epoch] if name.startswith(FRESH)]
    copied = [n for n in names if any(n in p and p[n].alarming for p in places.values())]
    chosen = copied[: MAX_COMPARED // 2]
    chosen += _spread([n for n in names if n not in chosen], MAX_COMPARED - len(chosen))
    # one sheet after the other: each may be large
    sheets = {card.epoch: probe_cells(record.sheet(card.epoch), chosen) for card in cards}
    return {
        name: [
            _tile(sheets[card.epoch][name], card.label, selected=card is selected)
            for card in cards
            if name in sheets[card.epoch]
        ]
        for name in chosen
        if name in sheets[selected.epoch]
    }


def probe_strip(
    record: TrialRecord, card: Scorecard, names: Iterable[str], title: str, sentence: str
) -> Strip:
    """These probes at another checkpoint."""
    names = list(names)
    cells = probe_cells(record.sheet(card.epoch), names)
    return Strip(title, [_tile(cells[name]) for name in names if name in cells], sentence)


def key_epochs(cards: list[Scorecard], selected: Scorecard) -> list[Scorecard]:
    """The scored epoch nearest to half of the pick's, the pick, and the last one after it."""
    earlier = [card for card in cards if card.epoch < selected.epoch]
    later = [card for card in cards if card.epoch > selected.epoch]
    halfway = min(earlier, key=lambda card: abs(card.epoch - selected.epoch / 2), default=None)
    return [*([halfway] if halfway else []), selected, *later[-1:]]


def all_strips(record: TrialRecord, card: Scorecard, max_tiles: int = MAX_TILES) -> list[Strip]:
    """Everything that a checkpoint drew, by what was asked for."""
    sheet = record.sheet(card.epoch)
    places = places_of(sheet)
    chosen = {}
    for role, title in TITLES.items():
        of_role = [name for name in places if name.startswith(f"{role} ")]
        share = max_tiles * len(of_role) // len(places) if len(places) > max_tiles else len(of_role)
        chosen[title] = _spread(of_role, share)
    cells = probe_cells(sheet, [name for names in chosen.values() for name in names])
    strips = [
        Strip(title, [_tile(cells[name]) for name in names if name in cells])
        for title, names in chosen.items()
    ]
    return [strip for strip in strips if strip.tiles]


def data_uri(image: Image.Image) -> str:
    """A picture as an address that holds it: JPEG, or PNG where that is smaller."""
    smallest = min((_encoded(image, kind) for kind in ("JPEG", "PNG")), key=lambda k: len(k[1]))
    return f"data:image/{smallest[0].lower()};base64,{base64.b64encode(smallest[1]).decode()}"


def _encoded(image: Image.Image, kind: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": JPEG_QUALITY} if kind == "JPEG" else {}
    image.convert("RGB").save(buffer, kind, optimize=True, **options)
    return kind, buffer.getvalue()


def _tile(cell: Cell, label: str = "", selected: bool = False) -> Tile:
    caption = cell.words or "The training picture beside a copy of it"
    return Tile(data_uri(cell.picture), caption, label, cell.alarming, selected)


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most this many of them, spread evenly over the list."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]
