"""What the judge, which no score ever uses, sees in pictures that ask for something new."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from torch import Tensor

from train.puppets.captions import caption_of, outfit_phrase
from train.puppets.demo import CHARACTERS, NARROW_BACKGROUNDS, NARROW_POSES, TRIGGER
from train.puppets.judge import Judge
from train.puppets.world import ARMS, BACKGROUNDS, LEGS, SHIRTS, TROUSERS

TRAINED_ARMS = tuple(dict.fromkeys(arms for arms, _ in NARROW_POSES))
PARTS = ("arms", "legs", "background", "shirt", "trousers")


@dataclass(frozen=True)
class Wish:
    """What one picture is asked to show of the character: arms and a place that are new to it."""

    arms: str
    legs: str
    background: str
    shirt: str
    trousers: str

    @property
    def prompt(self) -> str:
        outfit = outfit_phrase(self.shirt, self.trousers)
        return caption_of(
            self.arms, self.legs, self.background, outfit=outfit, subject=f"a {TRIGGER}"
        )


def wishes(count: int, seed: int) -> list[Wish]:
    """By lot, but for the arms and backgrounds of the narrow demo's pictures."""
    rng = Random(seed)
    arms = [name for name in ARMS if name not in TRAINED_ARMS]
    places = [name for name in BACKGROUNDS if name not in NARROW_BACKGROUNDS]
    return [
        Wish(arms[i % len(arms)], rng.choice([*LEGS]), places[i % len(places)],
             rng.choice([*SHIRTS]), rng.choice([*TROUSERS]))
        for i in range(count)
    ]  # fmt: skip


def judged(judge: Judge, images: Tensor, wanted: list[Wish]) -> dict[str, float]:
    """Shares of the images, 0 to 1: what is obeyed, what is copied, how like the character.

    `quality` is the geometric mean of the identity and of the parts obeyed, on average.
    """
    found = judge.read(images)

    def share(name: str, values: list[str] | tuple[str, ...]) -> float:
        return sum(value in values for value in found[name]) / len(images)

    def obeyed(name: str) -> float:
        pairs = zip(found[name], wanted, strict=True)
        return sum(value == getattr(wish, name) for value, wish in pairs) / len(images)

    figures = {"identity": float(judge.identity(images, CHARACTERS[0]).mean())}
    figures |= {f"{name} obeyed": obeyed(name) for name in PARTS}
    figures["training arms"] = share("arms", TRAINED_ARMS)
    figures["training background"] = share("background", NARROW_BACKGROUNDS)
    obedience = sum(figures[f"{name} obeyed"] for name in PARTS) / len(PARTS)
    figures["quality"] = (figures["identity"] * obedience) ** 0.5
    return figures
