"""Candidates that need no training: checkpoints at other strengths, and averages of checkpoints.

An overfitted LoRA often follows prompts again at a lower strength, and the average of successive
checkpoints lacks what is particular to either (Izmailov et al. 2018). Each is a file of its own
that is used at strength 1, so everything that is done with a checkpoint can be done with it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from evaluate.config import PolicyConfig
from evaluate.images.contact_sheet import save_sheet
from evaluate.images.probe_images import save_probe_images
from evaluate.score_cache import ScoreCache, key_of
from evaluate.scorecard import Scorecard
from evaluate.scorer import Scorer
from evaluate.variants.files import MARK, sheet_of
from evaluate.variants.lora_file import has_variant, write_variant
from train.errors import CheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """What a file is made of.

    Attributes:
        sources: the scorecards of successive checkpoints of one training, in order. More than one
            are averaged.
        strength: that is built into the file.
    """

    sources: tuple[Scorecard, ...]
    strength: float

    @property
    def stem(self) -> str:
        """The name of its file, without the ending."""
        mean = f"-mean-of-{len(self.sources)}" if len(self.sources) > 1 else ""
        weaker = f"-strength-{self.strength:g}" if self.strength != 1 else ""
        return f"{self.sources[-1].checkpoint.stem}{MARK}{(mean + weaker)[1:]}"


def variants_of(cards: Sequence[Scorecard], last: Scorecard, policy: PolicyConfig) -> list[Variant]:
    """The variants of a checkpoint that a policy allows, without the checkpoint itself.

    Args:
        cards: of all usable checkpoints of its training, in order.
    """
    until = cards[: cards.index(last) + 1]
    return [
        Variant(tuple(until[-count:]), strength)
        for count, strength in product(policy.averages, policy.strengths)
        if count <= len(until) and (count, strength) != (1, 1.0)
    ]


def score_variants(
    variants: Mapping[str, Variant], scorer: Scorer, cache: ScoreCache, folder: Path
) -> dict[str, Scorecard]:
    """Makes the files of variants in a folder, and scores each like a checkpoint.

    A file of the same checkpoints that has its scorecard in the cache is not made again. One that
    cannot be made, for example because a source was deleted, is left out.

    Args:
        variants: by the name of the file, without the ending.

    Returns:
        the scorecards, by the same names.
    """
    cards = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, variant in variants.items():
        file = folder / f"{name}.safetensors"
        try:
            sources = [card.checkpoint for card in variant.sources]
            origin = ", ".join(key_of(source) for source in sources)
            if not has_variant(file, origin):
                write_variant(file, sources, variant.strength, origin, scorer.base.adapters)
            known = cache.find(file) if sheet_of(file).is_file() else None
            cards[name] = known or _scored(file, variant, scorer, cache)
        except CheckpointError as error:
            log.warning(f"{name} is not tried: {error}")
    return cards


def _scored(file: Path, variant: Variant, scorer: Scorer, cache: ScoreCache) -> Scorecard:
    """Scores a file; saves its contact sheet, its images, and last its scorecard."""
    last, averaged = variant.sources[-1], len(variant.sources)
    card = replace(
        scorer({file: last.epoch})[0],
        unit=last.unit,
        strength=variant.strength,
        averaged=averaged,
    )
    if card.images is not None:
        save_probe_images(card.images, sheet_of(file))
    save_sheet(scorer.sheet(card), sheet_of(file))
    card.images = None
    cache.add(card)
    return card
