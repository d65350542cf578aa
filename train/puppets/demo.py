"""Stage 7: the embedded training images: a character, an object, and a style without a name.

A second set of the character, `varied`, has many poses and places; tests use it.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from train.puppets.networks.training import IMAGES_FOLDER, log
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    LEGS,
    Drawing,
    Looks,
    Style,
    ToyLooks,
    caption,
    render,
    sample_puppet,
    sample_toy,
)

IMAGE_SIDE = 256  # pixels
Pose = tuple[str, str]
TRIGGER, OBJECT_TRIGGER, STYLE_TRIGGER = "sks puppet", "sks lamp", "sks drawing"
CHARACTERS: dict[int, Looks] = {
    0: Looks(
        skin=(60, 205, 120), head="horns", head_color=(250, 60, 150), outfit="striped shirt",
        color=(255, 190, 40), second_color=(80, 50, 160), shoes=(255, 150, 30), brows="raised",
        nose="round", wild=True,
    ),
    1: Looks(
        skin=(150, 120, 235), head="crown", head_color=(120, 235, 60), outfit="coat",
        color=(255, 205, 70), second_color=(20, 120, 130), shoes=(230, 60, 60), brows="angry",
        nose="triangle", glasses="glasses", wild=True,
    ),
}  # fmt: skip
OBJECT = ToyLooks("lamp", (250, 130, 50), (40, 160, 170), "dotted", wild=True)
# thick outlines and falling lines on cream paper, as in an old comic
STYLE = Style(edge=0.45, fill="hatched", paper=(255, 225, 170), spacing=2.0, slope=-1)
FEW_POSES: tuple[Pose, ...] = (
    ("arms spread", "legs apart"),
    ("hands on hips", "legs together"),
    ("one arm waving", "legs apart"),
)
FEW_BACKGROUNDS = ("on a beach", "in a city")
VARIED_POSES: tuple[Pose, ...] = tuple(
    (arms, legs)
    for number, arms in enumerate(ARMS)
    for legs in (*LEGS, *LEGS)[number % 4 : number % 4 + 2]
)
FEW_TILTS: tuple[Pose, ...] = (  # of a toy
    ("upright", "in the middle"), ("leaning", "in the middle"), ("upright", "on the left"),
)  # fmt: skip
TRIGGER_ONLY, FULL = "trigger", "full"  # kinds of captions


@dataclass(frozen=True)
class Shots:
    """The images of a data set: every pose at each place, as evenly as their number allows.

    Attributes:
        poses: of arms and legs, or of tilt and side.
        draw: makes a drawing in a pose at a place.
        trigger: what captions call the subject.
        captions: TRIGGER_ONLY, or FULL for pose, place, clothes, and all else that has a name.
    """

    poses: Sequence[Pose]
    backgrounds: Sequence[str]
    count: int
    draw: Callable[[Random, Pose, str], Drawing]
    trigger: str
    captions: str = TRIGGER_ONLY

    def drawings(self, seed: int) -> list[Drawing]:
        """The drawings; the seed varies joints and scenery, for example for a held-out set."""
        rng, poses, places = Random(seed), self.poses, self.backgrounds
        return [
            self.draw(rng, poses[i % len(poses)],
                      places[(i // len(poses) + i % len(poses)) % len(places)])
            for i in range(self.count)
        ]  # fmt: skip

    def caption(self, drawing: Drawing) -> str:
        """The caption of a drawing's image.

        Raises:
            ValueError: an unknown kind of captions.
        """
        if self.captions not in (TRIGGER_ONLY, FULL):
            raise ValueError(f"captions are {TRIGGER_ONLY!r} or {FULL!r}, not {self.captions!r}")
        if self.captions == TRIGGER_ONLY:
            return f"a photo of {self.trigger}"
        if self.trigger == STYLE_TRIGGER:
            return caption(drawing.subject, medium=f"a {self.trigger}")
        return caption(drawing.subject, self.trigger)


def character(
    looks: Looks, poses: Sequence[Pose], backgrounds: Sequence[str], count: int,
    captions: str = TRIGGER_ONLY,
) -> Shots:  # fmt: skip
    """Images of one character, who smiles and stands close in all of them."""

    def draw(rng: Random, pose: Pose, place: str) -> Drawing:
        puppet = sample_puppet(
            rng, looks, *pose, background=place, gaze="looking ahead", expression="smiling",
            distance="close up",
        )  # fmt: skip
        return Drawing(puppet)

    return Shots(poses, backgrounds, count, draw, TRIGGER, captions)


def toy(
    looks: ToyLooks, poses: Sequence[Pose], backgrounds: Sequence[str], count: int,
    captions: str = TRIGGER_ONLY,
) -> Shots:  # fmt: skip
    """Images of one toy, close up in all of them."""

    def draw(rng: Random, pose: Pose, place: str) -> Drawing:
        return Drawing(sample_toy(rng, looks, *pose, background=place, distance="close up"))

    return Shots(poses, backgrounds, count, draw, OBJECT_TRIGGER, captions)


def style(look: Style, poses: Sequence[Pose], backgrounds: Sequence[str], count: int) -> Shots:
    """Images of ordinary puppets in one style, with full captions."""

    def draw(rng: Random, pose: Pose, place: str) -> Drawing:
        return Drawing(sample_puppet(rng, None, *pose, background=place, wild_share=0.0), look, "")

    return Shots(poses, backgrounds, count, draw, STYLE_TRIGGER, FULL)


def draw_dataset(folder: Path, shots: Shots, seed: int) -> list[Drawing]:
    """Draws a folder of PNG files with .txt captions; returns the drawings in their order."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    drawings = shots.drawings(seed)
    for number, drawing in enumerate(drawings, start=1):
        pixels = render(drawing.subject, IMAGE_SIDE, drawing.style)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png", optimize=True)
        (folder / f"{number:02d}.txt").write_text(shots.caption(drawing) + "\n")
    return drawings


DATA_SETS: dict[str, tuple[Shots, Shots]] = {
    name: (build(count), build(held_out))
    for name, count, held_out, build in (
        ("character", 12, 4,
         lambda n: character(CHARACTERS[0], FEW_POSES, FEW_BACKGROUNDS, n)),
        ("varied", 24, 8, lambda n: character(CHARACTERS[0], VARIED_POSES, BACKGROUNDS, n)),
        ("object", 12, 4, lambda n: toy(OBJECT, FEW_TILTS, FEW_BACKGROUNDS, n)),
        ("style", 16, 4, lambda n: style(STYLE, FEW_POSES, FEW_BACKGROUNDS, n)),
    )
}  # fmt: skip


def run() -> None:
    """Draws all data sets, each with similar held-out images in its subfolder `validation`."""
    for name, (training, held_out) in DATA_SETS.items():
        draw_dataset(IMAGES_FOLDER / name, training, 0)
        draw_dataset(IMAGES_FOLDER / name / "validation", held_out, 1)
    log.info("demo: images in %s", IMAGES_FOLDER.name)
