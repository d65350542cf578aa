"""Judges images whose prompts ask for combinations that the training set lacks.

The judge is a classifier network of the drawn world, which no score uses.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import mean
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from train.puppets.demo import CHARACTERS, DATA_SETS, TRIGGER, Shots
from train.puppets.networks.judge import Judge
from train.puppets.world.captions import Parts, outfit_phrase
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    CLOTHES,
    LEGS,
    OUTFITS,
    Looks,
)

ATTRIBUTES = ("arms", "legs", "background", "outfit", "color")  # that requests contain
DEMO = DATA_SETS["character"][0]
BOOTSTRAPS = 1000
Key = TypeVar("Key", bound=Hashable)
# metric -> its name in tables and plots
HEADINGS = {
    "obeyed": "all attributes correct",
    "arms obeyed": "arms correct",
    "background obeyed": "background correct",
    "training pose": "arms or legs of the training images",
    "training background": "background of the training images",
}


class Difference(NamedTuple):
    """A difference and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Request:
    """The attributes that a prompt asks for."""

    arms: str
    legs: str
    background: str
    outfit: str
    color: str

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute -> requested value."""
        return asdict(self)

    @property
    def prompt(self) -> str:
        """The prompt that asks for them, with the trigger word."""
        return Parts(
            f"a {TRIGGER}", outfit=outfit_phrase(self.outfit, self.color), arms=self.arms,
            legs=self.legs, background=self.background,
        ).text()  # fmt: skip


def unseen_requests(count: int, seed: int) -> list[Request]:
    """Returns random requests whose arms and backgrounds the default training images lack."""
    rng, trained = Random(seed), shown_in(DEMO)
    arms = [name for name in ARMS if name not in trained["arms"]]
    places = [name for name in BACKGROUNDS if name not in trained["background"]]
    return [
        Request(arms[i % len(arms)], rng.choice([*LEGS]),
                places[(i + i // len(arms)) % len(places)], rng.choice(OUTFITS),
                rng.choice([*CLOTHES]))
        for i in range(count)
    ]  # fmt: skip


def shown_in(shots: Shots) -> dict[str, set[str]]:
    """Returns the arms, legs and backgrounds of training images."""
    return {
        "arms": {arms for arms, _ in shots.poses},
        "legs": {legs for _, legs in shots.poses},
        "background": {*shots.backgrounds},
    }


def judge_each(
    judge: Judge,
    images: Tensor,
    requests: list[dict[str, str]],
    looks: Looks = CHARACTERS[0],
    shots: Shots = DEMO,
) -> dict[str, Tensor]:
    """Returns prompt adherence, copying and identity of each image, (N,), 0 to 1.

    `X obeyed` is 1 if the image shows the requested X, `obeyed` if every attribute is correct, and
    `training X` if it shows another X instead, which the training images have. `training pose` is 1
    if the arms or the legs do: few LoRAs repeat whole poses, most begin with one or the other.

    Args:
        requests: for each image the requested value of each of ATTRIBUTES.
        looks: the character's appearance.
        shots: the training images.
    """
    predictions = judge.read(images)

    def marks(values: Iterable[bool]) -> Tensor:
        return torch.tensor([*values]).float()

    metrics = {"identity": judge.identity(images, looks)}
    for part in ATTRIBUTES:
        pairs = zip(predictions[part], requests, strict=True)
        metrics[f"{part} obeyed"] = marks(value == request[part] for value, request in pairs)
    metrics["obeyed"] = torch.stack([metrics[f"{part} obeyed"] for part in ATTRIBUTES]).amin(0)
    for part, trained in shown_in(shots).items():
        pairs = zip(predictions[part], requests, strict=True)
        metrics[f"training {part}"] = marks(
            value in trained and value != request[part] for value, request in pairs
        )
    metrics["training pose"] = metrics["training arms"].maximum(metrics["training legs"])
    return metrics


def quality_of(metrics: Mapping[str, Tensor]) -> float:
    """Returns the geometric mean of the mean identity and the share of obeyed prompts."""
    return float((metrics["identity"].mean() * metrics["obeyed"].mean()) ** 0.5)


def means_of(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns the mean of each metric, and `quality_of` them as `quality`."""
    means = {name: float(values.mean()) for name, values in metrics.items()}
    return {**means, "quality": quality_of(metrics)}


def regret(
    halves: Sequence[Mapping[Key, float]], picks: Sequence[Key], among: Iterable[Key]
) -> float:
    """Returns the share of the best checkpoint's quality that the picks lack, on average.

    The best is chosen on one half of the judge's images and measured on the other, as its quality
    is too high by chance where it is chosen. So the regret can be negative. It is averaged over
    both ways to do this.

    Args:
        halves: the quality of each checkpoint by either half.
        among: the checkpoints of which one is the best; picks need not be among them.
    """
    rivals, shares = [*among], []
    for chosen, measured in (halves, halves[::-1]):
        highest = measured[max(rivals, key=lambda key: chosen[key])]
        shares += [1 - measured[pick] / highest for pick in picks]
    return mean(shares)


def quality_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Difference:
    """Returns how much better the first of two checkpoints is, on the same prompts and seeds.

    The standard error is that of a bootstrap over the pairs of images.
    """
    count = len(first["obeyed"])
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, count, (BOOTSTRAPS, count), generator=generator)

    def qualities(metrics: Mapping[str, Tensor]) -> Tensor:
        return (metrics["identity"][rows].mean(1) * metrics["obeyed"][rows].mean(1)) ** 0.5

    error = float((qualities(first) - qualities(second)).std())
    return Difference(quality_of(first) - quality_of(second), error)
