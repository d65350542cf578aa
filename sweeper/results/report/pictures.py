"""The pictures of a report, inside of the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from evaluate.probing.roles import CAPTION, CLASS, FRESH
from evaluate.scorecard import Scorecard
from evaluate.sheet import CELL, COPY, Cell, read_sheet
from sweeper.recording.record import Record
from train.config import DataConfig
from train.data.loading import load_pictures
from train.data.picture import DataError, open_picture

# with these a page stays far below 5 MB, whatever the study: 12 + 8 * 3 + 48 pictures of 10 kB
TRAINING, COMPARED, MORE, QUALITY = 12, 8, 48, 82
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
    words: str
    label: str = ""
    copy: bool = False
    picked: bool = False

    @property
    def alt(self) -> str:
        """The picture in words."""
        by = f" Drawn by {self.label}." if self.label else ""
        return f"{self.words}.{by}{' A copy of a training picture.' if self.copy else ''}"


@dataclass(frozen=True)
class Strip:
    """Pictures under one title, or why there are none."""

    title: str
    tiles: list[Tile]
    sentence: str = ""


def training_strip(record: Record) -> Strip:
    """Up to TRAINING of the pictures that a trial was trained on, spread over all of them."""
    title, settings = "What it was trained on", record.settings["data"]
    known = {field.name for field in fields(DataConfig)}
    try:
        pictures = load_pictures(DataConfig(**{k: v for k, v in settings.items() if k in known}))
    except (DataError, OSError) as error:
        return Strip(title, [], f"The training pictures are no longer where they were: {error}.")
    training, sentence = pictures.training, ""
    if pictures.fingerprint != record.tags.get("data.fingerprint"):
        sentence = f"The pictures in {settings['path']} have changed since."
    shown = _spread(list(training), TRAINING)
    if len(shown) < len(training):
        sentence = f"{len(shown)} of {len(training)} pictures. {sentence}".strip()
    tiles = [Tile(data_uri(_square(picture.path)), picture.caption) for picture in shown]
    return Strip(title, tiles, sentence)


def compared(record: Record, pick: Scorecard) -> dict[str, list[Tile]]:
    """Probes, and what came of each at an earlier epoch, at the pick and at a later one.

    Those that were copies at one of these epochs come first, then others from all over the set.
    """
    cards = moments(record.scorecards, pick)
    sheets = {card.epoch: _sheet(record, card) for card in cards}
    names = [name for name in sheets[pick.epoch] if name.startswith(FRESH)]
    copied = [n for n in names if any(n in s and s[n].alarming for s in sheets.values())]
    chosen = copied[: COMPARED // 2]
    chosen += _spread([n for n in names if n not in chosen], COMPARED - len(chosen))
    return {
        name: [
            _tile(sheets[card.epoch][name], card.label, picked=card is pick)
            for card in cards
            if name in sheets[card.epoch]
        ]
        for name in chosen
    }


def strip_of(
    record: Record, card: Scorecard, names: Iterable[str], title: str, words: str
) -> Strip:
    """These probes at another checkpoint."""
    cells = _sheet(record, card)
    return Strip(title, [_tile(cells[name]) for name in names if name in cells], words)


def moments(cards: list[Scorecard], pick: Scorecard) -> list[Scorecard]:
    """The scored epoch nearest to half of the pick's, the pick, and the last one after it."""
    earlier = [card for card in cards if card.epoch < pick.epoch]
    later = [card for card in cards if card.epoch > pick.epoch]
    half = min(earlier, key=lambda card: abs(card.epoch - pick.epoch / 2), default=None)
    return [*([half] if half else []), pick, *later[-1:]]


def all_strips(record: Record, card: Scorecard, most: int = MORE) -> list[Strip]:
    """Everything that a checkpoint drew, by what was asked for."""
    cells = _sheet(record, card)
    strips = []
    for role, title in TITLES.items():
        own = [cell for name, cell in cells.items() if name.startswith(f"{role} ")]
        shown = _spread(own, most * len(own) // len(cells) if len(cells) > most else len(own))
        if shown:
            strips.append(Strip(title, [_tile(cell) for cell in shown]))
    return strips


def data_uri(picture: Image.Image) -> str:
    """A picture as an address that holds it: JPEG, or PNG where that is smaller."""
    smallest = min((_encoded(picture, kind) for kind in ("JPEG", "PNG")), key=lambda k: len(k[1]))
    return f"data:image/{smallest[0].lower()};base64,{base64.b64encode(smallest[1]).decode()}"


def _encoded(picture: Image.Image, kind: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": QUALITY} if kind == "JPEG" else {}
    picture.convert("RGB").save(buffer, kind, optimize=True, **options)
    return kind, buffer.getvalue()


def _sheet(record: Record, card: Scorecard) -> dict[str, Cell]:
    """The pictures of a contact sheet; none where it is gone."""
    try:
        return read_sheet(record.sheet(card.epoch))
    except (OSError, ValueError):
        return {}


def _tile(cell: Cell, label: str = "", picked: bool = False) -> Tile:
    words = cell.words or "The training picture beside a copy of it"
    return Tile(data_uri(cell.picture), words, label, cell.alarming, picked)


def _square(path: Path) -> Image.Image:
    picture = open_picture(path)
    if max(picture.size) * 2 <= CELL:  # drawn pixel by pixel, as on the contact sheets
        return picture.resize((CELL, CELL), Image.Resampling.NEAREST)
    return ImageOps.fit(picture, (CELL, CELL), Image.Resampling.LANCZOS)


def _spread(things: list[Any], most: int) -> list[Any]:
    """At most so many of them, from all over the list."""
    if len(things) <= most:
        return things
    return [things[i * len(things) // most] for i in range(most)]
