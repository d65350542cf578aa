"""Judges images whose prompts ask for combinations that the training set lacks.

The judge is a classifier network of the drawn world, which no score uses.
"""

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
# metric -> its name in tables and plots
HEADINGS = {
    "obeyed": "all attributes correct",
    "arms obeyed": "arms correct",
    "background obeyed": "background correct",
}


@dataclass(frozen=True)
class Request:
    """The attributes that a prompt asks for."""

    arms: str
    legs: str
    background: str
    shirt: str
    trousers: str

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute -> requested value."""
        return asdict(self)

    @property
    def prompt(self) -> str:
        outfit = outfit_phrase(self.shirt, self.trousers)
        return caption_of(
            self.arms, self.legs, self.background, outfit=outfit, subject=f"a {TRIGGER}"
        )


def unseen_requests(count: int, seed: int) -> list[Request]:
    """Returns random requests whose arms and backgrounds the narrow demo data set lacks."""
    rng = Random(seed)
    arms = [name for name in ARMS if name not in TRAINED_ARMS]
    places = [name for name in BACKGROUNDS if name not in NARROW_BACKGROUNDS]
    return [
        Request(arms[i % len(arms)], rng.choice([*LEGS]), places[i % len(places)],
                rng.choice([*SHIRTS]), rng.choice([*TROUSERS]))
        for i in range(count)
    ]  # fmt: skip


def judge_images(
    judge: Judge, images: Tensor, requests: list[dict[str, str]], looks: Looks = CHARACTERS[0]
) -> dict[str, float]:
    """Returns prompt adherence, copying and identity, each a mean over the images from 0 to 1.

    `X obeyed` is the share of images that show the requested X, `obeyed` the share in which every
    attribute is correct, `training X` the share with an X of the narrow demo data set, and
    `quality` the geometric mean of `identity` and `obeyed`.

    Args:
        requests: for each image the requested value of each of ATTRIBUTES.
        looks: the character's appearance.
    """
    predictions = judge.read(images)
    count = len(images)

    def share_in(name: str, values: tuple[str, ...]) -> float:
        return sum(value in values for value in predictions[name]) / count

    correct = {
        part: [
            value == request[part]
            for value, request in zip(predictions[part], requests, strict=True)
        ]
        for part in ATTRIBUTES
    }
    metrics = {"identity": float(judge.identity(images, looks).mean())}
    metrics |= {f"{part} obeyed": sum(marks) / count for part, marks in correct.items()}
    metrics["obeyed"] = sum(map(all, zip(*correct.values(), strict=True))) / count
    metrics["training arms"] = share_in("arms", TRAINED_ARMS)
    metrics["training background"] = share_in("background", NARROW_BACKGROUNDS)
    poses = zip(predictions["arms"], predictions["legs"], strict=True)
    metrics["training pose"] = sum(pose in NARROW_POSES for pose in poses) / count
    metrics["quality"] = (metrics["identity"] * metrics["obeyed"]) ** 0.5
    return metrics
