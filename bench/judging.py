"""What the judge, which no score ever uses, sees in pictures that ask for something new."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random

from torch import Tensor

from train.puppets.demo import CHARACTERS, NARROW_BACKGROUNDS, NARROW_POSES, TRIGGER
from train.puppets.networks.gates import ATTRIBUTES
from train.puppets.networks.judge import Judge
from train.puppets.world.captions import caption_of, outfit_phrase
from train.puppets.world.examples import ARMS, BACKGROUNDS, LEGS, SHIRTS, TROUSERS, Looks

TRAINED_ARMS = tuple(dict.fromkeys(arms for arms, _ in NARROW_POSES))


@dataclass(frozen=True)
class Wish:
    """What one picture is asked to show of the character: arms and a place that are new to it."""

    arms: str
    legs: str
    background: str
    shirt: str
    trousers: str

    @property
    def asked(self) -> dict[str, str]:
        """Part by part."""
        return asdict(self)

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


def judged(
    judge: Judge, images: Tensor, asked: list[dict[str, str]], looks: Looks = CHARACTERS[0]
) -> dict[str, float]:
    """Shares of the images, 0 to 1: what is obeyed, what is copied, how like the character.

    `quality` is the geometric mean of the identity and the share that is right in every part.

    Args:
        asked: for each image the value of each of ATTRIBUTES.
        looks: the character's.
    """
    found = judge.read(images)
    count = len(images)

    def share(name: str, values: tuple[str, ...]) -> float:
        return sum(value in values for value in found[name]) / count

    right = {part: [value == wish[part] for value, wish in zip(found[part], asked, strict=True)]
             for part in ATTRIBUTES}  # fmt: skip
    figures = {"identity": float(judge.identity(images, looks).mean())}
    figures |= {f"{part} obeyed": sum(marks) / count for part, marks in right.items()}
    figures["obeyed"] = sum(map(all, zip(*right.values(), strict=True))) / count
    figures["training arms"] = share("arms", TRAINED_ARMS)
    figures["training background"] = share("background", NARROW_BACKGROUNDS)
    poses = zip(found["arms"], found["legs"], strict=True)
    figures["training pose"] = sum(pose in NARROW_POSES for pose in poses) / count
    figures["quality"] = (figures["identity"] * figures["obeyed"]) ** 0.5
    return figures
